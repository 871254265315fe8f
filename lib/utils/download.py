"""Files from the web: with progress, gone on with where a download was cut off, checked, and whole or not there."""

import http.client
import logging
import os
import re
import urllib.error
import urllib.request

from utils.files import file_digest, locked
from utils.progress import progress

log = logging.getLogger(__name__)
BLOCK = 2**20


def download(url, path, size=None, digest=None, timeout=60):
    """The file at an http(s) address, redirected or not, to `path`; until it is whole and checked it lies at <path>.part.

    size: bytes; digest: (algorithm, hexadecimal digits, all or the first); None: not known. What was cut off is gone on
    with where one of them is known, and the server can. Errors: OSError names the address, and is a ConnectionError where
    it was cut off; ValueError, of a file that is not what it should be, which is not kept.
    """
    with locked(path):
        part = f'{path}.part'
        have = os.path.getsize(part) if os.path.exists(part) and (size or digest) else 0
        if not have or file_fault(part, size, digest):
            _fetch(url, part, have, timeout)
        fault = file_fault(part, size, digest)
        if fault:
            os.remove(part)
            raise ValueError(f'{url}: {fault}; what came is not kept')
        with open(part, 'rb') as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)


def file_fault(path, size=None, digest=None):
    """What is wrong with a file, or None."""
    found = os.path.getsize(path)
    if size and found != size:
        return f'wanted {size:,} bytes, got {found:,}'
    if not digest:
        return None
    kind, wanted = digest
    got = file_digest(path, kind)
    begins = 'begins with ' if len(wanted) < len(got) else 'is '
    return None if got.startswith(wanted) else f'its {kind} is {got}, wanted is one that {begins}{wanted}'


def _fetch(url, part, have, timeout):
    """Appends to `part`, which has so many bytes, what is missing; or all, where the server does not do ranges."""
    with _opened(url, have, timeout) as response:
        begin = _begin(response, have)
        length = response.headers.get('Content-Length')
        whole = begin + int(length) if length else None
        if begin:
            log.info('%s: going on from byte %d', url, begin)
        blocks = _blocks(response, url)
        if whole:
            what = f'{os.path.basename(part).removesuffix(".part")}, MiB'
            blocks = progress(blocks, what, -(-int(length) // BLOCK))
        with open(part, 'r+b' if begin else 'wb') as stream:
            stream.seek(begin)
            for block in blocks:
                stream.write(block)
            stream.truncate()
    found = os.path.getsize(part)
    if whole and found < whole:
        raise ConnectionError(f'{url}: it ended after {found:,} of {whole:,} bytes')


def _opened(url, have, timeout):
    """The answer to a request for the bytes from `have` on."""
    headers = {'Range': f'bytes={have}-'} if have else {}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _opened(url, 0, timeout)  # what lies here is no part of it
        raise OSError(f'{url}: the server answers {error.code} {error.reason}') from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        raise OSError(f'{url}: no answer ({getattr(error, "reason", error)})') from None


def _begin(response, have):
    """The byte of the file that the answer begins with."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    given = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    if not given or int(given[1]) > have:
        raise OSError(f'{response.url}: asked for bytes from {have}, the server gives others')
    return int(given[1])


def _blocks(response, url):
    """The answer's bytes."""
    while True:
        try:
            block = response.read(BLOCK)
        except (http.client.HTTPException, OSError) as error:
            raise ConnectionError(f'{url}: the connection broke ({error})') from error
        if not block:
            return
        yield block

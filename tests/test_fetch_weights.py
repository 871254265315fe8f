"""tools/fetch.py and utils/download.py, against a server on this machine that fails in every way."""

import hashlib
import http.server
import importlib.util
import os
import re
import threading

import numpy as np
import pytest
import torch
from conftest import ROOT

from caffe.format.weights import read_weights
from test_import_weights import BasicBlock, random_resnet
from netgen.backbones import starting_from
from public.lists import LISTS, Listed
from public.sources import SOURCES
from public.weights import WEIGHTS, Public
from utils.download import BLOCK, download

spec = importlib.util.spec_from_file_location('tool_fetch', os.path.join(ROOT, 'tools', 'fetch.py'))
fetch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fetch)

CONTENT = np.random.RandomState(1).bytes(3 * BLOCK // 2)
SHA = 'sha256', hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """GET /mode: whole, cut (half of what is asked for, then it hangs up), plain (no ranges), odd (other ranges), moved,
    nolength; else 404. `asked`: the ranges."""

    asked, content = [], CONTENT

    def do_GET(self):
        mode, given, content = self.path[1:], self.headers.get('Range'), self.content
        self.asked.append(given)
        if mode == 'moved':
            self.send_response(302)
            self.send_header('Location', '/whole')
            return self.end_headers()
        if mode not in ('whole', 'cut', 'plain', 'odd', 'nolength'):
            return self.send_error(404)
        begin = int(re.match(r'bytes=(\d+)-', given)[1]) if given and mode not in ('plain', 'nolength') else 0
        if begin >= len(content):
            return self.send_error(416)
        body = content[begin:]
        self.send_response(206 if begin else 200)
        if begin:
            first = begin + (mode == 'odd')
            self.send_header('Content-Range', f'bytes {first}-{len(content) - 1}/{len(content)}')
        if mode != 'nolength':
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if mode == 'cut' else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(Server, 'asked', [])
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with http.server.HTTPServer(('127.0.0.1', 0), Server) as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield f'http://127.0.0.1:{one.server_port}'
        one.shutdown()
        thread.join()


@pytest.mark.parametrize('mode', ['whole', 'plain', 'moved', 'nolength'])
@pytest.mark.parametrize('known', [{}, {'size': len(CONTENT)}, {'digest': ('sha256', SHA[1][:8])}])
def test_a_file_comes_whole(server, tmp_path, mode, known):
    path = tmp_path / 'sub' / 'file'
    download(f'{server}/{mode}', str(path), **known)
    assert path.read_bytes() == CONTENT and not os.path.exists(f'{path}.part')


@pytest.mark.parametrize('then', ['whole', 'plain', 'moved'])
def test_what_was_cut_off_goes_on(server, tmp_path, then):
    path, half = tmp_path / 'file', len(CONTENT) // 2
    for _ in range(2):
        with pytest.raises(ConnectionError, match=f'{server}/cut: (it ended after|the connection broke)'):
            download(f'{server}/cut', str(path), digest=SHA)
        assert not path.exists()
    assert Server.asked == [None, f'bytes={half}-']
    begun = os.path.getsize(f'{path}.part')
    assert half < begun < len(CONTENT)
    download(f'{server}/{then}', str(path), digest=SHA)
    assert Server.asked[2] == f'bytes={begun}-' and path.read_bytes() == CONTENT


def test_what_was_cut_off_begins_anew_where_nothing_tells_whether_it_fits(server, tmp_path):
    for mode in 'cut', 'whole':
        try:
            download(f'{server}/{mode}', str(tmp_path / 'file'))
        except ConnectionError:
            pass
    assert Server.asked == [None, None] and (tmp_path / 'file').read_bytes() == CONTENT


@pytest.mark.parametrize('part', [CONTENT, CONTENT + b'more', b'other', CONTENT[:-1]])
def test_a_part_of_any_kind_ends_in_the_file_or_in_an_error(server, tmp_path, part):
    path = tmp_path / 'file'
    (tmp_path / 'file.part').write_bytes(part)
    if part == b'other':  # the rest is joined to it, and found wrong
        with pytest.raises(ValueError, match='sha256'):
            download(f'{server}/whole', str(path), len(CONTENT), SHA)
        assert not os.path.exists(f'{path}.part')
    download(f'{server}/whole', str(path), len(CONTENT), SHA)
    assert path.read_bytes() == CONTENT
    assert len(Server.asked) == {CONTENT: 0, CONTENT[:-1]: 1}.get(part, 2)


@pytest.mark.parametrize(
    'mode, known, kind, message',
    [
        ('none', {}, OSError, '/none: the server answers 404'),
        ('whole', {'size': 5}, ValueError, f'/whole: wanted 5 bytes, got {len(CONTENT):,}'),
        (
            'whole',
            {'digest': ('md5', '00ff')},
            ValueError,
            r'its md5 is \w{32}, wanted is one that begins with 00ff',
        ),
    ],
)
def test_what_is_wrong_is_not_kept(server, tmp_path, mode, known, kind, message):
    with pytest.raises(kind, match=message):
        download(f'{server}/{mode}', str(tmp_path / 'file'), **known)
    assert [path.name for path in tmp_path.iterdir()] == ['file.lock']


def test_other_bytes_than_were_asked_for_are_refused(server, tmp_path):
    (tmp_path / 'file.part').write_bytes(CONTENT[:9])
    with pytest.raises(OSError, match='asked for bytes from 9, the server gives others'):
        download(f'{server}/odd', str(tmp_path / 'file'), digest=SHA)


def test_nobody_answers(tmp_path):
    with pytest.raises(OSError, match='http://127.0.0.1:9/x: no answer'):
        download('http://127.0.0.1:9/x', str(tmp_path / 'file'), timeout=1)


@pytest.fixture
def resnet18(tmp_path, monkeypatch):
    """Weights of the server's, named `net`, and whose they are."""
    theirs = random_resnet((2, 2, 2, 2), BasicBlock)
    torch.save(theirs.state_dict(), tmp_path / 'net.pth')
    monkeypatch.setattr(Server, 'content', (tmp_path / 'net.pth').read_bytes())
    digest = hashlib.sha256(Server.content).hexdigest()[:8]
    public = Public(
        'a net', 'http://page', 'free', 'net.pth', None, None, ('sha256', digest), becomes='VGG16'
    )
    monkeypatch.setattr(fetch, 'NAMES', [*fetch.NAMES, 'net'])
    monkeypatch.setitem(fetch.WEIGHTS, 'net', public._replace(target='models/net.caffemodel'))
    return theirs


def test_weights_are_fetched_and_converted(server, tmp_path, resnet18, capsys):
    data = tmp_path / 'data'
    arguments = ['net', '--data', str(data), '--url', f'{server}/cut']
    with pytest.raises(OSError, match='the same command goes on from there'):
        fetch.main(arguments)
    for mode in 'whole', 'none':  # the second time it lies there
        fetch.main([*arguments[:3], '--url', f'{server}/{mode}'])
        weights = {name: blobs for name, _, blobs in read_weights(str(data / 'models/net.caffemodel'))}
        np.testing.assert_array_equal(weights['fc1000'][1], resnet18.fc.bias.detach().numpy())
    assert len(Server.asked) == 2 and 'ResNet-18-torchvision' in capsys.readouterr().out
    fetch.main(['net', '--list', '--data', str(data)])
    assert f'{data}/imagenet_models/net.pth: here' in capsys.readouterr().out


def test_what_cannot_be_fetched_says_what_to_do(server, tmp_path, resnet18):
    arguments = ['net', '--data', str(tmp_path)]
    by_hand = f'have it from http://page, put it at {tmp_path}/imagenet_models/net.pth, and this command converts it'
    with pytest.raises(OSError, match=f'net.pth: no program can download it: {by_hand}'):
        fetch.main(arguments)
    with pytest.raises(OSError, match=f'404 Not Found. Or {by_hand}'):
        fetch.main([*arguments, '--url', f'{server}/none'])
    (tmp_path / 'imagenet_models/net.pth').write_bytes(b'another')
    with pytest.raises(ValueError, match='net.pth: its sha256 is .*; remove it'):
        fetch.main(arguments)


def test_the_list(tmp_path, capsys):
    """A line for each name, of all kinds; all that is known of one."""
    fetch.main(['--list', '--data', str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in said if re.match('  [a-z]', line)]
    assert [words[0] for words in lines] == [*WEIGHTS, *LISTS, *SOURCES]
    assert any(line.strip() == 'for ResNet-18-FPN' for line in said)
    assert {words[0] for words in lines if words[1:3] != ['not', 'here']} == {'detnet59'}  # by hand
    for name in fetch.NAMES:
        fetch.main(['--list', name, '--data', str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert '  file     102,530,333 bytes, sha256 begins with 0676ba61' in lines
    assert '  file     size not known, digest not known' in lines
    assert '  licence  not known: see its page' in lines and '  lines    9,917' in lines
    with pytest.raises(SystemExit):
        fetch.main([])
    assert 'a NAME is wanted' in capsys.readouterr().err


def test_rows_are_of_nets_that_there_are():
    assert all(starting_from(public.becomes) for public in WEIGHTS.values())
    assert len({*WEIGHTS, *LISTS, *SOURCES}) == len(WEIGHTS) + len(LISTS) + len(SOURCES)


LIST = b''.join(b'ILSVRC2012_val_%08d %d\n' % (7 * i, i) for i in (1, 2, 3))


def test_a_list_is_put_in_its_place(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Server, 'content', LIST)
    row = Listed('three', 'http://page', 'free', f'{server}/whole', 'kit/ImageSets/val.txt', 3)
    monkeypatch.setitem(fetch.LISTS, 'imagenet_val1', row)
    arguments = ['imagenet_val1', '--data', str(tmp_path)]
    path = tmp_path / 'kit/ImageSets/val.txt'
    for _ in range(2):  # the second time it lies there
        fetch.main(arguments)
        assert capsys.readouterr().out == f'{path}: 3 lines\n' and path.read_bytes() == LIST
    fetch.main(['--list', 'imagenet_val1', '--data', str(tmp_path)])
    assert capsys.readouterr().out.endswith(f'{path}: here\n') and len(Server.asked) == 1
    path.write_bytes(LIST[:-5])
    with pytest.raises(ValueError, match='val.txt: line 3: wanted `<name> 3`; remove it'):
        fetch.main(arguments)
    fetch.main(['--list', '--data', str(tmp_path)])
    assert 'imagenet_val1            WRONG' in capsys.readouterr().out


@pytest.mark.parametrize(
    'content, mode, message',
    [
        (LIST[:25], 'whole', 'wanted 3 lines, got 1; what came is not kept'),
        (LIST.replace(b' 2', b' 4'), 'whole', 'line 2: wanted `<name> 2`; what came is not kept'),
        (b'<html>\n<body>\n</html>\n', 'whole', 'line 1: wanted'),
        (LIST, 'none', '404 Not Found. Or have it from http://page, and put it at '),
    ],
)
def test_another_list_is_not_kept(server, tmp_path, monkeypatch, content, mode, message):
    monkeypatch.setattr(Server, 'content', content)
    row = Listed('three', 'http://page', 'free', f'{server}/{mode}', 'kit/val.txt', 3)
    monkeypatch.setitem(fetch.LISTS, 'imagenet_val1', row)
    with pytest.raises((OSError, ValueError), match=message):
        fetch.main(['imagenet_val1', '--data', str(tmp_path)])
    assert not (tmp_path / 'kit/val.txt').exists()

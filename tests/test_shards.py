"""utils.shards: rows written image by image, gone on with after a stop, joined and mapped into memory."""

import hashlib
import os
import pickle
import resource
import signal
import time

import numpy as np
import pytest

from utils.files import save_npz
from utils.proposals import load_proposals, save_proposals, write_index
from utils.shards import MappedRows, Shard, open_shards, shard_files

MARK, OTHER = (hashlib.sha256(text).digest() for text in (b'this', b'other'))
ROWS = [np.arange(5 * n, dtype=np.float32).reshape(n, 5) + i for i, n in enumerate((2, 0, 3, 1, 4))]


def write(stem, rank=0, count=1, mark=MARK, until=None):
    """Writes what is left of a shard of ROWS, up to so many images -> how many were there before."""
    with Shard(stem, 5, mark, rank, count) as shard:
        before = len(shard)
        for rows in ROWS[rank::count][before:until]:
            shard.append(rows)
    return before


@pytest.fixture
def stem(tmp_path):
    return str(tmp_path / 'net_rpn_proposals')


def test_shards_of_any_world_hold_the_same(stem):
    digests = set()
    for count in 1, 2, 7:
        for rank in range(count):
            write(stem, rank, count)
        rows = open_shards(stem, 5, count, len(ROWS))
        for ours, wanted in zip(rows, ROWS, strict=True):
            np.testing.assert_array_equal(ours, wanted)
        assert not rows[0].flags.writeable and rows[0].base is not None
        digests.add(rows.digest)
        write_index(stem + '.json', 5, count, len(ROWS))
        assert len(os.listdir(os.path.dirname(stem))) == 1 + 2 * count  # those of other worlds are gone
        assert load_proposals(stem + '.json').digest == rows.digest
    save_npz(
        stem + '.npz', boxes=np.vstack(ROWS)[:, :4], scores=np.vstack(ROWS)[:, 4:], counts=[2, 0, 3, 1, 4]
    )
    assert digests == {load_proposals(stem + '.npz').digest}


def test_a_sequence(stem):
    save_proposals(stem + '.json', [rows[:, :4] for rows in ROWS], [rows[:, 4] for rows in ROWS])
    read = load_proposals(stem + '.json')
    assert len(read) == 5 and [len(rows) for rows in read[1:3]] == [0, 3] and len(read[-1]) == 4
    with pytest.raises(IndexError, match='image 5 of 5'):
        read[5]
    again = pickle.loads(pickle.dumps(read))  # for another process: by path, whatever the size
    np.testing.assert_array_equal(again[4], ROWS[4])
    assert len(pickle.dumps(read)) < 300 and again.digest == read.digest


@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='measures by /proc')
def test_what_is_mapped_does_not_grow_with_what_is_read(stem):
    size = MappedRows.RESIDENT // 20
    with Shard(stem, 5, MARK) as shard:
        for i in range(4):
            shard.append(np.full((size, 5), i))
    rows = open_shards(stem, 5, 1, 4)
    before, views = mapped(), list(rows)
    assert [float(view.sum()) for view in views] == [0, 5 * size, 10 * size, 15 * size]
    rows[0]
    assert mapped() - before < 2**20
    assert [float(view[-1, 0]) for view in views] == [0, 1, 2, 3]  # they show it all the same


def mapped():
    """Bytes of files that count as this process's memory."""
    with open('/proc/self/statm') as stream:
        return int(stream.read().split()[2]) * resource.getpagesize()


@pytest.mark.parametrize(
    'harm, kept',
    [('rows cut', 3), ('rows too long', 4), ('table cut', 3), ('rows changed', 2), ('rows lost', 0)],
)
def test_a_shard_goes_on_after_what_is_whole(stem, harm, kept):
    write(stem, until=4)
    rows, table = shard_files(stem, 0, 1)
    if harm == 'rows lost':
        os.remove(rows)
    elif harm == 'rows changed':
        with open(rows, 'r+b') as stream:
            stream.seek(50)
            stream.write(b'x')
    elif harm == 'rows too long':
        with open(rows, 'ab') as stream:
            stream.write(b'half a row')
    else:
        path = rows if harm == 'rows cut' else table
        os.truncate(path, os.path.getsize(path) - 3)
    assert write(stem) == kept
    for ours, wanted in zip(open_shards(stem, 5, 1, 5), ROWS, strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_a_shard_of_something_else_is_begun_anew_and_its_readers_keep_it(stem):
    write(stem)
    before = open_shards(stem, 5, 1, 5)
    assert write(stem, mark=OTHER, until=1) == 0
    np.testing.assert_array_equal(before[4], ROWS[4])
    with pytest.raises(ValueError, match='0of1.table: wanted 5 images'):
        open_shards(stem, 5, 1, 5)


def test_one_process_writes_a_shard_and_another_waits_for_its_end(stem, caplog):
    caplog.set_level('INFO')
    ready, told = os.pipe()
    if os.fork() == 0:
        with Shard(stem, 5, MARK) as shard:
            shard.append(ROWS[0])
            os.write(told, b'.')
            time.sleep(0.3)
            shard.append(ROWS[1])
            os.kill(os.getpid(), signal.SIGKILL)
    os.read(ready, 1)
    assert write(stem) == 2 and 'waiting for another process' in caplog.text
    os.wait()


def test_an_index_belongs_to_its_shards(stem):
    save_proposals(stem + '.json', [np.ones((2, 4)), np.ones((1, 4))])
    save_npz(stem + '.npz', boxes=np.ones((3, 4)), counts=[2, 2])
    with pytest.raises(ValueError, match='npz: .*boxes.*3, 4.* counts of 4'):
        load_proposals(stem + '.npz')
    with open(stem + '.json') as stream:
        index = stream.read()
    save_proposals(stem + '.json', [np.ones((2, 4)), np.zeros((1, 4))])
    for text, fault in (
        (index, 'written anew'),
        ('{"images": 2}', 'not an index'),
        ('{', 'not an index'),
        ('{"columns": Infinity}', 'not an index'),
    ):
        with open(stem + '.json', 'w') as stream:
            stream.write(text)
        with pytest.raises(ValueError, match=f'net_rpn_proposals.json: .*{fault}'):
            load_proposals(stem + '.json')
    with open(stem + '.json', 'w') as stream:
        stream.write(index)
    rows, _ = shard_files(stem, 0, 1)
    os.truncate(rows, 40)
    with pytest.raises(ValueError, match='0of1.rows: wanted 3 rows of 4 numbers, got 40 bytes'):
        load_proposals(stem + '.json')
    os.remove(rows)
    with pytest.raises(FileNotFoundError, match='0of1.rows: no such file'):
        load_proposals(stem + '.json')


def test_a_full_disk_names_the_file_and_what_was_written_stays(stem):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (110, limits[1]))  # the fourth image needs more
    try:
        with pytest.raises(OSError, match='net_rpn_proposals.0of1.rows') as caught:
            write(stem)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename.endswith('.rows')
    assert write(stem) == 3
    np.testing.assert_array_equal(open_shards(stem, 5, 1, 5)[4], ROWS[4])

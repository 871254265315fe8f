"""torchvision's recipe for COCO in a world of two, in bf16: see world_coco.py."""

import caffe
import pytest
from world_coco import apart, run
from world_training import LOSS, WEIGHTS, read_log


@pytest.fixture(scope='module')
def worlds(tmp_path_factory):
    """The folder of what worlds of one and two did, and one that was killed; and the exit codes of its workers."""
    folder = str(tmp_path_factory.mktemp('worlds'))
    caffe.set_mode_cpu()
    return folder, *run(folder)


def test_two_workers_train_as_one_with_twice_the_passes(worlds):
    """Where bf16 is computed by float32 the losses were equal, and weights within 4e-8 of a blob's largest."""
    loss, weight = apart(f'{worlds[0]}/2', f'{worlds[0]}/1')
    assert loss <= LOSS and weight <= WEIGHTS
    rates = [record['lr'] for record in read_log(f'{worlds[0]}/2')]
    assert rates == pytest.approx(
        [2e-6, 2e-6 + 1.998e-3 / 3, 2e-6 + 1.998e-3 / 1.5, 2e-3, 2e-4, 2e-4, 2e-5, 2e-5]
    )


def test_a_killed_world_goes_on_and_ends_with_the_same_weights(worlds):
    folder, killed, after = worlds
    assert killed[1] == -9 and killed[0] and after == [0, 0]
    assert max(apart(f'{folder}/killed', f'{folder}/2')) <= 1e-6  # they were equal

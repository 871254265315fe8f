"""Solver: step, test, solve, snapshot, restore.

One iteration (Caffe, src/caffe/solver.cpp): clear the parameters' diffs, test if due, forward and backward
iter_size times, then apply_update: clip, divide by iter_size, add weight decay, turn each diff into an
update by the solver's rule (rules.py), subtract it. `iter` counts updates.
"""

import collections
import os
import time

import torch

from . import average_precision, common, debug, rules
from .blob import is_channels_last, settle
from .format.prototxt import read_net, read_solver
from .format.state import read_state, write_state
from .common import logger
from .loss_scale import LossScale
from .names import did_you_mean
from .net import Net
from .proto import caffe_pb2


class Solver:
    """Base of the solvers; its subclasses, one for each update rule of rules.py, are made below.

    solver_file: a solver prototxt, or a SolverParameter. Relative paths in it are taken from the current
    directory.
    """

    rule = None

    def __init__(self, solver_file):
        if isinstance(solver_file, caffe_pb2.SolverParameter):
            self.param, self._file = solver_file, ''
        else:
            self.param, self._file = read_solver(str(solver_file)), str(solver_file)
        self._check_policy()
        self._check_numbers()
        rank, seed = common.solver_rank(), self.param.random_seed
        if seed >= 0 or rank:  # each rank draws numbers of its own
            common.set_random_seed((seed if seed >= 0 else torch.initial_seed()) + rank)
        self.iter = 0
        # Asked once an iteration; may answer 'stop', 'snapshot', or 'checkpoint', which is the caller's own.
        self.requested_action = lambda: None
        self.action = None  # what it, or (caffe.NCCL) that of any rank, answered in the last iteration
        self.last_pass = False  # of the iter_size of an iteration
        self._callbacks = []
        self._losses = collections.deque(maxlen=max(1, self.param.average_loss))
        self.net = self._train_net()
        self.test_nets = self._test_nets() if common.solver_rank() == 0 else []
        self._check_evaluation()
        self.history = [None] * (self.rule.histories * len(self.net.learnable_params))  # None: zeros
        self.loss_scale = LossScale()
        for weights in self.param.weights:
            for path in filter(None, (w.strip() for w in weights.split(','))):
                for net in [self.net, *self.test_nets]:
                    net.copy_from(path)
        if self.param.snapshot:
            self._check_snapshot_folder()

    def _check_policy(self):
        policy = self.param.lr_policy
        if policy not in rules.POLICIES:
            raise ValueError(
                f'{self._file}: unknown lr_policy {policy!r}{did_you_mean(policy, rules.POLICIES)} '
                f'Known: {", ".join(rules.POLICIES)}'
            )
        for name in rules.POLICY_NEEDS.get(policy, []):
            if not self.param.HasField(name):
                raise ValueError(f'{self._file}: lr_policy {policy!r} needs {name}')

    def _check_numbers(self):
        p, least = self.param, {'iter_size': 1}
        if p.lr_policy == 'step':
            least['stepsize'] = 1
        if p.lr_policy in ('poly', 'cosine'):
            least['max_iter'] = 1
        for name, wanted in least.items():
            if getattr(p, name) < wanted:
                raise ValueError(f'{self._file}: {name} is {getattr(p, name)}, wanted is {wanted} at least')
        if p.weight_decay and p.regularization_type not in rules.DECAYS:
            raise ValueError(
                f'{self._file}: unknown regularization_type {p.regularization_type!r}, '
                f'known: {", ".join(rules.DECAYS)}'
            )

    def _check_evaluation(self):
        kind = self.param.eval_type
        scored = [average_precision.tallies(net, self.param.ap_version) for net in self.test_nets]
        if kind not in ('classification', 'detection'):
            raise ValueError(f'{self._file}: unknown eval_type {kind!r}, known: classification, detection')
        if kind == 'detection' and not all(scored):
            raise ValueError(
                f'{self._file}: eval_type detection wants test nets with a DetectionEvaluate layer'
            )

    # nets

    def _train_net(self):
        p = self.param
        given = [n for n in ('net', 'net_param', 'train_net', 'train_net_param') if p.HasField(n)]
        if len(given) != 1:
            raise ValueError(
                f'{self._file}: one of net, net_param, train_net, train_net_param is wanted, there are {given or "none"}'
            )
        return self._make_net(getattr(p, given[0]), common.TRAIN, p.train_state)

    def _test_nets(self):
        p = self.param
        sources = [*p.test_net_param, *p.test_net]
        shared = [getattr(p, n) for n in ('net_param', 'net') if p.HasField(n)]
        if shared:
            sources += shared * (len(p.test_iter) - len(sources))
        if len(sources) != len(p.test_iter):
            raise ValueError(f'{self._file}: {len(p.test_iter)} test_iter for {len(sources)} test nets')
        if p.test_state and len(p.test_state) != len(sources):
            raise ValueError(f'{self._file}: {len(p.test_state)} test_state for {len(sources)} test nets')
        nets = []
        for i, source in enumerate(sources):
            net = self._make_net(
                source, common.TEST, p.test_state[i] if p.test_state else caffe_pb2.NetState()
            )
            net.no_backward()
            net.share_with(self.net)
            nets.append(net)
        return nets

    def _make_net(self, source, phase, state):
        param = caffe_pb2.NetParameter()
        param.CopyFrom(read_net(source) if isinstance(source, str) else source)
        param.state.MergeFrom(state)
        param.debug_info |= self.param.debug_info
        return Net.from_param(param, phase, param.state.level, ())

    # running

    def add_callback(self, on_start, on_gradients_ready=None):
        """Call on_start() before each iteration's first forward and on_gradients_ready() before its update.

        One argument: an object with these two methods (caffe.NCCL).
        """
        if on_gradients_ready is None:
            on_start, on_gradients_ready = on_start.on_start, on_start.on_gradients_ready
        self._callbacks.append((on_start, on_gradients_ready))

    def step(self, iters):
        """Do `iters` iterations; False when requested_action stopped it before.

        Unlike Caffe's, the smoothed loss goes on from one call to the next.
        """
        p = self.param
        begin = (self.iter, time.time())
        stop = self.iter + iters
        while self.iter < stop:
            self.net.clear_param_diffs()
            if (
                p.test_interval
                and self.iter % p.test_interval == 0
                and (self.iter > 0 or p.test_initialization)
            ):
                self.test_all()
            for on_start, _ in self._callbacks:
                on_start()
            self._losses.append(self._passes())
            self.action = None
            for _, on_gradients_ready in self._callbacks:
                on_gradients_ready()
            if p.display and self.iter % p.display == 0 and common.solver_rank() == 0:
                begin = self._display(begin)
            self.apply_update()
            if self.action is None:
                self.action = self.requested_action()
            due = self.action == 'snapshot' or p.snapshot and self.iter % p.snapshot == 0
            if due and common.solver_rank() == 0:
                self.snapshot()
            if self.action == 'stop':
                return False
        return True

    def _passes(self):
        """Forward and backward iter_size times -> the mean loss."""
        loss, size = 0, self.param.iter_size
        with self.loss_scale.applied():
            for i in range(size):
                self.last_pass = i == size - 1
                loss = loss + self.net.forward_backward()
        self.last_pass = False
        return loss / size

    max_iter = property(lambda self: self.param.max_iter)
    lr = property(lambda self: self.learning_rate())

    @property
    def loss(self):
        """The last iteration's loss, the mean over its passes and (caffe.NCCL) all ranks; a tensor on the device."""
        return self._losses[-1]

    @loss.setter
    def loss(self, value):
        self._losses[-1] = value

    @property
    def smoothed_loss(self):
        """The mean loss of the last average_loss iterations."""
        return float(sum(self._losses)) / len(self._losses) if self._losses else 0.0

    def _display(self, begin):
        now = time.time()
        done, seconds = self.iter - begin[0], now - begin[1]
        pace = f' ({done / seconds:.4g} iter/s, {seconds:.3g}s/{done} iters)' if done else ''
        logger.info('Iteration %d%s, loss = %.6g', self.iter, pace, self.smoothed_loss)
        self._log_outputs(self.net, 'Train', lambda blob: blob.tensor)
        logger.info('Iteration %d, lr = %g', self.iter, self.learning_rate())
        return self.iter, now

    def _log_outputs(self, net, what, values):
        k = 0
        for name in net.outputs:
            weight = net.blob_loss_weights.get(name, 0)
            for value in values(net.blobs[name]).reshape(-1).tolist():
                note = f' (* {weight:g} = {weight * value:.6g} loss)' if weight else ''
                logger.info('    %s net output #%d: %s = %.6g%s', what, k, name, value, note)
                k += 1

    def test_all(self):
        for i, net in enumerate(self.test_nets):
            if self.param.test_iter[i]:
                logger.info('Iteration %d, Testing net (#%d)', self.iter, i)
                net.share_with(self.net)
                self._test(net, self.param.test_iter[i])

    def _test(self, net, batches):
        """Means of the net's outputs over so many batches; mean average precision of DetectionEvaluate's."""
        tallies = average_precision.tallies(net, self.param.ap_version)
        loss, sums = 0.0, {}
        for _ in range(batches):
            loss += float(net.run_forward())
            for name in net.outputs:
                if name in tallies:
                    tallies[name].add(net.blobs[name].data)
                else:
                    sums[name] = sums.get(name, 0) + net.blobs[name].tensor
        if self.param.test_compute_loss:
            logger.info('Test loss: %g', loss / batches)
        means = {id(net.blobs[n]): s / batches for n, s in sums.items()}
        for name, tally in tallies.items():
            by_class = tally.by_class()
            if self.param.show_per_class_result:
                average_precision.log(by_class)
            means[id(net.blobs[name])] = torch.tensor(average_precision.mean(by_class))
        self._log_outputs(net, 'Test', lambda blob: means[id(blob)])

    def solve(self, resume_file=None):
        """Run to max_iter, from resume_file (a .solverstate) if given; snapshot at the end unless
        snapshot_after_train is off."""
        p = self.param
        if p.snapshot_after_train:
            self._check_snapshot_folder()
        if resume_file:
            self.restore(resume_file)
        finished = self.step(p.max_iter - self.iter)
        if (
            p.snapshot_after_train
            and (not p.snapshot or self.iter % p.snapshot)
            and common.solver_rank() == 0
        ):
            self.snapshot()
        if common.solver_rank():
            return
        if not finished:
            logger.info('Optimization stopped early.')
            return
        if p.display and self.iter % p.display == 0:
            self._losses.append(self.net.run_forward())
            logger.info('Iteration %d, loss = %.6g', self.iter, self.smoothed_loss)
        if p.test_interval and self.iter % p.test_interval == 0:
            self.test_all()

    def share_weights(self, net):
        """Let `net` use the values of the train net's parameters."""
        net.share_with(self.net)

    # updating

    def learning_rate(self):
        return rules.learning_rate(self.param, self.iter)

    def apply_update(self):
        """Turn the parameters' diffs into updates and subtract them; the diffs then hold the updates. Counts one
        iteration. In fp16 none of this but the counting where a diff is not finite."""
        p, net = self.param, self.net
        if p.debug_info:
            debug.log_gradients(net)
        if self.loss_scale.allows([b for b, lr in zip(net.learnable_params, net.params_lr) if lr]):
            self._update_all()
        settle()
        if p.debug_info:
            debug.log_update(net)
        self.iter += 1

    def _update_all(self):
        p, net, rate = self.param, self.net, self.learning_rate()
        cached = common.device().type == 'cpu'  # one after the other, each stays in the CPU's cache
        groups = collections.defaultdict(list)
        for i, (lr, decay) in enumerate(zip(net.params_lr, net.params_weight_decay)):
            if lr == 0 and self.history[i] is None:
                net.learnable_params[i].clear_grad()
            else:
                groups[lr, decay, i if cached else None].append(i)
        with torch.no_grad():
            scale = rules.clip_scale(net.learnable_params, p.clip_gradients) / p.iter_size
            for (lr, decay, _), members in groups.items():
                self._update(members, rate * lr, p.weight_decay * decay, scale)
        self.net.updated()

    def _update(self, members, rate, decay, scale):
        """Update the parameters of the numbers `members`, which share a learning rate and a decay."""
        blobs = [self.net.learnable_params[i] for i in members]
        weights = [b.update() for b in blobs]
        grads = [_laid_out_as(w, b.update_grad()) for w, b in zip(weights, blobs)]
        rules.multiply(grads, scale)
        rules.decay(grads, weights, decay, self.param.regularization_type)
        updates = self.rule(self.param, self.iter, rate, grads, *self._histories(members, grads))
        torch._foreach_sub_(weights, updates)
        for blob, update in zip(blobs, updates):
            blob.grad = update

    def _histories(self, members, grads):
        """The rule's lists of histories of some parameters, on the device of their gradients."""
        count = len(self.net.learnable_params)
        for k in range(self.rule.histories):
            places = [k * count + i for i in members]
            for place, grad in zip(places, grads):
                h = self.history[place]
                self.history[place] = torch.zeros_like(grad) if h is None else _laid_out_as(grad, h)
            yield [self.history[place] for place in places]

    # snapshots

    def snapshot_filename(self, extension):
        prefix = self.param.snapshot_prefix
        if not prefix or os.path.isdir(prefix):
            stem = os.path.splitext(os.path.basename(self._file))[0] or 'solver'
            prefix = os.path.join(prefix or os.path.dirname(self._file), stem)
        return f'{prefix}_iter_{self.iter}{extension}'

    def _check_snapshot_folder(self):
        folder = os.path.dirname(os.path.abspath(self.snapshot_filename('')))
        if not os.access(folder, os.W_OK):
            raise FileNotFoundError(
                f'{self._file}: snapshots go to {folder} (snapshot_prefix {self.param.snapshot_prefix!r}), '
                f'which {"cannot be written" if os.path.isdir(folder) else "does not exist"}'
            )

    def snapshot(self):
        """Write <prefix>_iter_<N>.caffemodel and .solverstate (.h5 added with snapshot_format HDF5)."""
        hdf5 = self.param.snapshot_format == caffe_pb2.SolverParameter.HDF5
        suffix = '.h5' if hdf5 else ''
        model, state = (self.snapshot_filename(e) + suffix for e in ('.caffemodel', '.solverstate'))
        self.net.save(model, self.param.snapshot_diff)
        scale = self.loss_scale.state()
        write_state(state, self.iter, model, self._current_step(), self._history_arrays(), scale)
        logger.info('Snapshotting to %s and %s', model, state)

    def _history_arrays(self):
        blobs = self.net.learnable_params * self.rule.histories
        return [
            torch.zeros(b.shape).numpy() if h is None else h.cpu().numpy()
            for b, h in zip(blobs, self.history)
        ]

    def _current_step(self):
        """How many learning-rate steps lie behind: the state file's current_step."""
        p = self.param
        return {
            'step': lambda: self.iter // p.stepsize,
            'multistep': lambda: sum(self.iter >= s for s in p.stepvalue),
        }.get(p.lr_policy, lambda: 0)()

    def restore(self, state_file):
        """Go on from a .solverstate (or .solverstate.h5): iteration, history, and the weights it names."""
        state_file = str(state_file)
        iteration, model, history, scale = read_state(state_file)
        blobs = self.net.learnable_params * self.rule.histories
        if len(history) != len(blobs):
            raise ValueError(
                f'{state_file}: {len(history)} history arrays, this {type(self).__name__} of net '
                f'{self.net.name!r} has {len(blobs)}'
                + ('; weights (.caffemodel) are loaded by net.copy_from' if not history else '')
            )
        for i, (blob, array) in enumerate(zip(blobs, history)):
            if blob.count != array.size:
                raise ValueError(
                    f'{state_file}: history {i} has the shape {array.shape}, its parameter {blob.shape}'
                )
        if model:
            beside = os.path.join(os.path.dirname(state_file), os.path.basename(model))
            self.net.copy_from(model if os.path.exists(model) else beside)
        self.iter, self.loss_scale = iteration, LossScale(*(scale or ()))
        self._losses.clear()
        self.history = [
            torch.tensor(a).reshape(b.shape).to(common.device()) if a.any() else None
            for a, b in zip(history, blobs)
        ]


def _laid_out_as(model, tensor):
    """`tensor` on the device of `model`, which has its shape, and in its order in memory."""
    same = any(order(tensor) and order(model) for order in (torch.Tensor.is_contiguous, is_channels_last))
    return tensor if same and tensor.device == model.device else torch.empty_like(model).copy_(tensor)


SOLVERS = {
    kind: type(f'{kind}Solver', (Solver,), {'__doc__': rule.__doc__, 'rule': staticmethod(rule)})
    for kind, rule in rules.RULES.items()
}
SGDSolver, NesterovSolver, AdaGradSolver = (SOLVERS[kind] for kind in ('SGD', 'Nesterov', 'AdaGrad'))
RMSPropSolver, AdaDeltaSolver, AdamSolver = (SOLVERS[kind] for kind in ('RMSProp', 'AdaDelta', 'Adam'))


def get_solver(solver_file):
    """The solver of the type that the prototxt names."""
    param = (
        solver_file if isinstance(solver_file, caffe_pb2.SolverParameter) else read_solver(str(solver_file))
    )
    known = {name.lower(): cls for name, cls in SOLVERS.items()}
    if param.type.lower() not in known:
        raise ValueError(
            f'{solver_file}: unknown solver type {param.type!r}{did_you_mean(param.type, SOLVERS)} '
            f'Known: {", ".join(sorted(SOLVERS))}'
        )
    return known[param.type.lower()](solver_file)

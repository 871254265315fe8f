"""A row per method: its stages, how long they are, the nets it ends with and how these are tested.

A stage's weights and proposals are the results of the stages that it names. A new method is a new row here,
and its nets are one in netgen.
"""

from dataclasses import dataclass, replace

from pipeline.stages import INITIAL, Stage, propose, train
from rpn.generate import SETTINGS as PROPOSE

RPN = {
    'TRAIN.HAS_RPN': True,
    'TRAIN.BBOX_REG': False,
    'TRAIN.PROPOSAL_METHOD': 'gt',
}
DETECT = {'TRAIN.HAS_RPN': False, 'TRAIN.PROPOSAL_METHOD': 'rpn'}


@dataclass(frozen=True)
class Method:
    """The nets' files lie in models/<dataset>/<net>/<nets>, the settings in experiments/cfgs/<name>.yml.

    stages: rows. iterations: {dataset: those of each training stage}, as published. own: makes the same of an
    own dataset's four numbers (recipe.four_iterations).
    detector: (net to test, stage that trains it); proposer: the same of a net that proposes for it, where it
    does not do so itself. finals: (word, stage) whose files are copied to <net>_<word>_final.caffemodel.
    one_round: what --stages 1 makes of it. folder: nets, where these are another's (name).
    """

    name: str
    stages: tuple
    iterations: dict
    own: object
    detector: tuple
    proposer: tuple = None
    finals: tuple = ()
    one_round: object = None
    folder: str = ''

    @property
    def nets(self):
        return self.folder or self.name

    @property
    def trained(self):
        """The training stages."""
        return [stage for stage in self.stages if stage.function is train]

    def named(self, results):
        """[(what it is, its file)] of the results that the test needs; results: {stage: file}."""
        proposer = [('RPN model', results[self.proposer[1]])] if self.proposer else []
        return [*proposer, ('Final model', results[self.detector[1]])]


ROUND_1 = (
    Stage('stage1_rpn', train, 'stage1_rpn_solver60k80k.pt', INITIAL, None, RPN),
    Stage('stage1_proposals', propose, 'rpn_test.pt', 'stage1_rpn', None, PROPOSE),
    Stage('stage1_fast_rcnn', train, 'stage1_fast_rcnn_solver30k40k.pt', INITIAL, 'stage1_proposals', DETECT),
)
ROUND_2 = (
    Stage('stage2_rpn', train, 'stage2_rpn_solver60k80k.pt', 'stage1_fast_rcnn', None, RPN),
    Stage('stage2_proposals', propose, 'rpn_test.pt', 'stage2_rpn', None, PROPOSE),
    Stage(
        'stage2_fast_rcnn',
        train,
        'stage2_fast_rcnn_solver30k40k.pt',
        'stage2_rpn',
        'stage2_proposals',
        DETECT,
    ),
)
ALT_OPT = Method(
    'faster_rcnn_alt_opt',
    ROUND_1 + ROUND_2,
    {
        **dict.fromkeys(('pascal_voc', 'pascal_voc_0712'), (80000, 40000, 80000, 40000)),
        **dict.fromkeys(('imagenet', 'coco'), (320000,) * 4),
    },
    lambda four: four,
    ('faster_rcnn_test.pt', 'stage2_fast_rcnn'),
    finals=(('faster_rcnn', 'stage2_fast_rcnn'),),
)
END2END = Method(
    'faster_rcnn_end2end',
    (Stage('train', train, 'solver.prototxt'),),
    {'pascal_voc': (70000,), 'pascal_voc_0712': (110000,), 'imagenet': (320000,), 'coco': (490000,)},
    lambda four: (max(four),),
    ('test.prototxt', 'train'),
)
RFCN_PROPOSE = {'TEST.RPN_PRE_NMS_TOP_N': 6000, 'TEST.RPN_POST_NMS_TOP_N': 300}
RFCN = Method(
    'rfcn_end2end',
    (Stage('train', train, 'solver.prototxt'),),
    {'pascal_voc': (110000,), 'pascal_voc_0712': (110000,), 'imagenet': (320000,), 'coco': (1920000,)},
    lambda four: (max(four),),
    ('test_agnostic.prototxt', 'train'),
)
METHODS = {
    method.name: method
    for method in (
        replace(
            ALT_OPT,
            one_round=replace(
                ALT_OPT,
                stages=ROUND_1,
                detector=('fast_rcnn_test.pt', 'stage1_fast_rcnn'),
                proposer=('rpn_test.pt', 'stage1_rpn'),
                finals=(('rpn', 'stage1_rpn'), ('fast_rcnn', 'stage1_fast_rcnn')),
            ),
        ),
        END2END,
        replace(END2END, name='mask_rcnn_end2end'),
        Method(
            'fast_rcnn',
            (Stage('train', train, 'solver.prototxt'),),
            {'pascal_voc': (40000,), 'pascal_voc_0712': (60000,), 'imagenet': (320000,), 'coco': (280000,)},
            lambda four: (four[1],),
            ('test.prototxt', 'train'),
        ),
        RFCN,
        replace(
            RFCN,
            name='rfcn_end2end_ohem',
            stages=(Stage('train', train, 'solver_ohem.prototxt'),),
            folder=RFCN.name,
        ),
        Method(
            'rfcn_alt_opt_5step_ohem',
            (
                Stage('stage1_rpn', train, 'stage1_rpn_solver60k80k.pt', INITIAL, None, RPN),
                Stage('stage1_proposals', propose, 'rpn_test.pt', 'stage1_rpn', None, RFCN_PROPOSE),
                Stage(
                    'stage1_rfcn',
                    train,
                    'stage1_rfcn_ohem_solver80k120k.pt',
                    INITIAL,
                    'stage1_proposals',
                    DETECT,
                ),
                Stage('stage2_rpn', train, 'stage2_rpn_solver60k80k.pt', 'stage1_rfcn', None, RPN),
                Stage('stage2_proposals', propose, 'rpn_test.pt', 'stage2_rpn', None, RFCN_PROPOSE),
                Stage(
                    'stage2_rfcn',
                    train,
                    'stage2_rfcn_ohem_solver80k120k.pt',
                    INITIAL,
                    'stage2_proposals',
                    DETECT,
                ),
                Stage('stage3_rpn', train, 'stage3_rpn_solver60k80k.pt', 'stage2_rfcn', None, RPN),
            ),
            {
                **dict.fromkeys(('pascal_voc', 'pascal_voc_0712'), (80000, 120000, 80000, 120000, 80000)),
                **dict.fromkeys(('imagenet', 'coco'), (320000,) * 5),
            },
            lambda four: (*four, four[2]),
            ('rfcn_test.pt', 'stage2_rfcn'),
            proposer=('rpn_test.pt', 'stage3_rpn'),
            finals=(('rpn', 'stage3_rpn'), ('rfcn', 'stage2_rfcn')),
        ),
    )
}

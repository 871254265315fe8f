"""The nets and solvers of models/ as prototxt text.

layers              single layers, a line each
necks               what joins several of them to a pyramid; NECKS
backbones           the feature maps of an image; BACKBONES
heads               what runs on them: the RPN; the region heads, HEADS
mask_heads          which cells of a region are its object's; MASK_HEADS
methods             whole nets and their solvers, a folder each; METHODS
files               all of it as files; schedules of the learning rate
"""

"""What is run: the stages of each method, and recipes that train and test from one command.

settings   what a process settles before it works: cfg, device, seeds
child      work in a process of its own
manifest   what is done of a long job, to go on where it stopped
methods    a row per method: its stages, the nets it ends with, how they are tested
stages     training and proposing as stages; a method's stages, one after the other
schedule   a solver's learning-rate steps for another number of iterations
fit        sizes of images and epochs that suit a dataset
advice     how many images and objects a class has, and what that lets expect
recipe     everything from a dataset's name to the mean AP
"""

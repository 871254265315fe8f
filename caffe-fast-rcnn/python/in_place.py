"""What puts compiled parts in place, for both setup.py."""

import os

from setuptools.command.build_ext import build_ext


class InPlace(build_ext):
    """build_ext whose --inplace puts a file in place by renaming it: a process that computes with the one before keeps that,
    and none that begins meanwhile meets half a file."""

    def copy_file(self, infile, outfile, **how):
        temporary = f'{outfile}.part'
        super().copy_file(infile, temporary, **how)
        os.replace(temporary, outfile)
        return outfile, True

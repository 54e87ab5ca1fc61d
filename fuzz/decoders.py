"""One decoder under libFuzzer, with the protobuf runtime as judge: started by ``fuzz/run``.

``python fuzz/decoders.py DECODER [OPTION ...]``, with libFuzzer's options. What it finds is an
input that the decoder and the runtime read differently, or that breaks a sanitizer's rule.
"""

import sys

import atheris

from tests import judge

script, decoder, *options = sys.argv
# The first argument is the command by which libFuzzer starts this again when it merges.
atheris.Setup([f"{sys.executable} {script} {decoder}", *options], judge.INPUTS[decoder])
atheris.Fuzz()

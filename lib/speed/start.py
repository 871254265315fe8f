"""Prints in JSON the seconds that a process spends until a net can be used: `start.py PROTOTXT CAFFEMODEL`.

Begins with nothing imported: import, the training net built, its weights loaded.
"""

import json
import sys
import time

if __name__ == '__main__':
    steps = [time.perf_counter()]
    import caffe

    steps.append(time.perf_counter())
    net = caffe.Net(sys.argv[1], caffe.TRAIN)
    steps.append(time.perf_counter())
    net.copy_from(sys.argv[2])
    steps.append(time.perf_counter())
    print(json.dumps({name: b - a for name, a, b in zip(('import', 'build', 'weights'), steps, steps[1:])}))

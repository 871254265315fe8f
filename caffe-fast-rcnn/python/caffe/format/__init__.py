"""The formats of Caffe's files.

| module   | owns |
|---|---|
| files    | reading and replacing files whole |
| hdf5     | HDF5 files, read with their sizes checked first |
| images   | headers of image files, looked at before their pixels |
| upgrade  | messages of every age to current ones |
| prototxt | nets and solvers as text; layers by phase, level and stage |
| weights  | .caffemodel and HDF5 weights; blob messages |
| state    | .solverstate and HDF5 solver states |
| database | LMDB and LEVELDB databases of records |
"""

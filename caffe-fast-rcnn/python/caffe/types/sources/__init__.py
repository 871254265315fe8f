"""Where arrays enter a net, and leave it for a file.

| module      | owns |
|---|---|
| arrays      | Input Parameter DummyData MemoryData: arrays of the program's own, or drawn by fillers |
| hdf5        | HDF5Data HDF5Output |
| records     | Data: records of a database (format/database.py) |
| images      | ImageData: image files |
| windows     | WindowData: windows of image files |
| annotated   | AnnotatedData: records with boxes, for SSD |
| augment     | images and their boxes changed together: transform_param and batch samplers of SSD |
| batch       | BatchLayer, which makes batches of samples ahead; Prefetch |
| transformer | files and records to images, and transform_param |

A new source is a class in a module here, imported below. Its parameters are a message of caffe.proto with
batch_size, and it says where samples come from; batches, prefetching, transform_param's fields and the names
in errors are BatchLayer's:

    @layer('ListData')
    class ListData(BatchLayer):
        fields = ('source', 'batch_size')          # those that it reads of list_data_param

        def samples(self, param, transformer):     # an endless iterator of (image, label, name); without self in it
            return list_samples(read_list(param.source), transformer)

transformer(image, name) takes an image (K, h, w). It draws from transformer.generator alone. A source whose tops are no images and labels is a caffe.Layer with
setup, which shapes the tops, and forward, which fills them by blob.fill; HDF5Data is one.
"""

from . import annotated, arrays, hdf5, images, records, windows

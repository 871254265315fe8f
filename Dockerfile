# The commands frcnn and caffe. For the CPU; for GPUs: --build-arg BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04
# docker run --rm -v "$PWD":/work frcnn doctor
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG CUDA_ARCHS="75 80 86 89 90"
# Which build of PyTorch: words for pip, e.g. "torch --index-url URL" with the URL that PyTorch's page has for CPUs, much smaller
ARG TORCH=torch

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv python3-dev build-essential \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/frcnn
ENV PATH=/opt/frcnn/bin:$PATH

COPY . /src
RUN pip install --no-cache-dir $TORCH \
 && pip install --no-cache-dir "/src[report,export]"

WORKDIR /work
ENV FRCNN_HOME=/work
ENTRYPOINT ["frcnn"]
CMD ["--help"]

// How a kernel is written: as a function of one element, or of one step that a block's threads take together. nvcc
// makes GPU kernels of these; a C++ compiler makes loops over the same functions, so that a machine without a GPU
// runs them as well. Both are built without contraction of a * b + c: the answers are those of separate operations.
//
// Every exported function queues its work on `stream` of `device`, waits for nothing, and returns 0 or the error of
// its launches, whose text error_text gives.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define BOTH __host__ __device__
#else
#define BOTH
#endif
#define EXPORT extern "C" __attribute__((visibility("default")))

struct Queue {
    int64_t device;
    void* stream;
};

#ifdef __CUDACC__

constexpr int THREADS = 256, BLOCK_THREADS = 1024, SHARED_WORDS = 128;
constexpr int64_t MOST_BLOCKS = 1 << 20;

template <class F>
__global__ void __launch_bounds__(THREADS) each_kernel(F function, int64_t count) {
    int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) function(i);
}

template <class F>
__global__ void __launch_bounds__(BLOCK_THREADS) block_kernel(F function) {
    __shared__ uint64_t shared[SHARED_WORDS];
    function(shared);
}

template <class F>
__global__ void __launch_bounds__(THREADS) blocks_kernel(F function, int64_t count) {
    for (int64_t i = blockIdx.x; i < count; i += gridDim.x) function(i);
}

// function(i) for each i < count, in any order.
template <class F>
int each(Queue queue, int64_t count, F function) {
    if (count <= 0) return cudaSuccess;
    if (cudaError_t error = cudaSetDevice(int(queue.device))) return error;
    int64_t blocks = (count + THREADS - 1) / THREADS;
    if (blocks > MOST_BLOCKS) blocks = MOST_BLOCKS;
    each_kernel<<<unsigned(blocks), THREADS, 0, static_cast<cudaStream_t>(queue.stream)>>>(function, count);
    return cudaGetLastError();
}

// function(shared) by one block, whose threads share the work within at each_thread.
template <class F>
int one_block(Queue queue, F function) {
    if (cudaError_t error = cudaSetDevice(int(queue.device))) return error;
    block_kernel<<<1, BLOCK_THREADS, 0, static_cast<cudaStream_t>(queue.stream)>>>(function);
    return cudaGetLastError();
}

// function(i) for each i < count, in any order, each by a block whose threads share the work within at each_thread.
template <class F>
int a_block_each(Queue queue, int64_t count, F function) {
    if (count <= 0) return cudaSuccess;
    if (cudaError_t error = cudaSetDevice(int(queue.device))) return error;
    int64_t blocks = count < MOST_BLOCKS ? count : MOST_BLOCKS;
    blocks_kernel<<<unsigned(blocks), THREADS, 0, static_cast<cudaStream_t>(queue.stream)>>>(function, count);
    return cudaGetLastError();
}

#else

constexpr int SHARED_WORDS = 128;
inline bool backwards = false;  // the order of the host's loops, which no answer may depend on

template <class F>
void loop(int64_t count, F function) {
    for (int64_t i = 0; i < count; ++i) function(backwards ? count - 1 - i : i);
}

template <class F>
int each(Queue, int64_t count, F function) {
    loop(count, function);
    return 0;
}

template <class F>
int one_block(Queue, F function) {
    uint64_t shared[SHARED_WORDS];
    function(shared);
    return 0;
}

template <class F>
int a_block_each(Queue, int64_t count, F function) {
    loop(count, function);
    return 0;
}

#endif

// Within one_block and a_block_each: function(t) for each t < count, in any order; all of them are done when it returns.
template <class F>
BOTH void each_thread(int64_t count, F function) {
#ifdef __CUDA_ARCH__
    for (int64_t t = threadIdx.x; t < count; t += blockDim.x) function(t);
    __syncthreads();
#elif !defined(__CUDACC__)
    loop(count, function);
#endif
}

// *at += value, whole even where many do it at once.
BOTH inline void add(int64_t* at, int64_t value) {
#ifdef __CUDA_ARCH__
    atomicAdd(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(value));
#else
    *at += value;
#endif
}

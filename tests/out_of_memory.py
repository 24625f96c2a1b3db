"""What devices and libraries have been seen to say when memory runs out."""

import torch

REPORTS = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of …"),
    "CUDA driver": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    "CPU on Linux": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 4611686018427387904 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "CPU on Windows": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:81] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8."
    ),
    "Python": MemoryError(),
    "numpy": MemoryError("Unable to allocate 7.28 TiB for an array with shape (1000000000000,) and data type int64"),
    "C++": RuntimeError("std::bad_alloc"),
    "oneDNN": RuntimeError("could not create a primitive"),
    "system": OSError(12, "Cannot allocate memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuBLAS's beginning": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "cuSOLVER": RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    "NCCL": RuntimeError(
        "NCCL error in: ProcessGroupNCCL.cpp:3384, unhandled cuda error (run with NCCL_DEBUG=INFO), "
        "NCCL 2.27\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
    ),
    "NCCL's malloc": RuntimeError("ncclUnhandledCudaError: …\nLast error:\nFailed to CUDA malloc 4194304 bytes"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 0 bytes, max: 9.07 GB)"),
    "MPS's buffer": RuntimeError("Invalid buffer size: 14.90 GiB"),
    "ROCm": RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
    "a compiler": torch._dynamo.exc.TorchDynamoException(
        "backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB"
    ),
}

"""Chooses and runs the implementations of blocks and convolutions.

block        which implementation computes a block
convolution  which implementation computes a convolution of stride 1
columns      convolutions of few features with columns of the image as features
cpu          convolutions and passes over images in C for CPUs (cpu.c with cpu_product.h
             and cpu_bfloat16.h)
cpu_sparse   convolutions of lists of active sites there (cpu_sparse.h)
gpu          convolutions with bias, residual sum and activation on GPUs
gpu_programs their programs, in Triton
sparse       which implementation computes a convolution of a list of active sites
portable     whether XLA alone computes, in programs that go elsewhere
activation   the activation, which all of them compute
"""

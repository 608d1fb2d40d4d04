"""Chooses and runs the implementations of blocks and convolutions.

block        which implementation computes a block
convolution  which implementation computes a convolution of stride 1
columns      convolutions of few features with columns of the image as features
cpu          convolutions in C (cpu.c, cpu_product.h) for CPUs
gpu          convolutions with bias, residual sum and activation on GPUs
gpu_programs their programs, in Triton
activation   the activation, which all of them compute
"""

// moe_kernels.fatbin as bytes of this library.
#include "kernel_table.h"

asm(R"(
.pushsection .rodata
.balign 64
.hidden moe_cuda_image
.globl moe_cuda_image
moe_cuda_image:
.incbin ")" MOE_EXPORT_GPU_IMAGE R"("
.popsection
)");

extern "C" __attribute__((visibility("hidden"))) const unsigned char moe_cuda_image[];

namespace moe::cuda {

const unsigned char* const kImage = moe_cuda_image;

}  // namespace moe::cuda

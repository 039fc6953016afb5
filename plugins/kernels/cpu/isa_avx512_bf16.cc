// AVX-512 with its dot products of bfloat16 (BF16) and of bytes (VNNI).
#define MOE_EXPORT_AVX512_DOT 1
#include "avx512.inc.h"

namespace moe {

const Isa kAvx512Bf16 = {"avx512_bf16", row_bytes, row_is_plain, prepare,
                         multiply, activate, attend, turn_heads};

}  // namespace moe

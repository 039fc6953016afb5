// AVX-512 F, BW, VL and DQ.
#define MOE_EXPORT_AVX512_DOT 0
#include "avx512.inc.h"

namespace moe {

const Isa kAvx512 = {"avx512", row_bytes, row_is_plain, prepare,
                     multiply, activate, attend, turn_heads};

}  // namespace moe

// The instructions, each over the 32 lanes of a warp.  Lanes outside the mask keep what they have.
//
// Registers are bits: a float op takes the same arrays as an integer op.  F says the float type:
// F32, F32Z (with .ftz), F64, F16, BF16, and F16X2, BF16X2 for two to a register.
#ifndef MOE_EXPORT_TOOLS_PTX_OPS_H_
#define MOE_EXPORT_TOOLS_PTX_OPS_H_

#include "machine.h"

namespace ptx {

// ------------------------------------------------------------------------------- integers

// T's sign is that of the op; registers are given as what they are.
#define PTX_UNARY_OPS(X) X(neg) X(abs_int) X(not_bits) X(brev)
#define PTX_BINARY_OPS(X) \
  X(add)                  \
  X(sub) X(mul_lo) X(mul_hi) X(div_int) X(rem) X(min_int) X(max_int) X(and_bits) X(or_bits) X(xor_bits)
#define PTX_DECLARE(name) \
  template <class T>      \
  void name(const Mask& m, T* d, const T* a);
PTX_UNARY_OPS(PTX_DECLARE)
#undef PTX_DECLARE
#define PTX_DECLARE(name) \
  template <class T>      \
  void name(const Mask& m, T* d, const T* a, const T* b);
PTX_BINARY_OPS(PTX_DECLARE)
#undef PTX_DECLARE

template <class T>
void mov(const Mask& m, T* d, const T* a);
template <class T>
void mad_lo(const Mask& m, T* d, const T* a, const T* b, const T* c);
template <class T>
void mad_hi(const Mask& m, T* d, const T* a, const T* b, const T* c);
template <class T, class Wide>
void mul_wide(const Mask& m, Wide* d, const T* a, const T* b);
template <class T, class Wide>
void mad_wide(const Mask& m, Wide* d, const T* a, const T* b, const Wide* c);
template <class T>
void shl(const Mask& m, T* d, const T* a, const u32* b);
template <class T>
void shr(const Mask& m, T* d, const T* a, const u32* b);
template <class T>
void popc(const Mask& m, u32* d, const T* a);
template <class T>
void clz(const Mask& m, u32* d, const T* a);
template <class T>
void bfind(const Mask& m, u32* d, const T* a);
template <class T>
void bfe(const Mask& m, T* d, const T* a, const u32* position, const u32* length);
template <class T>
void bfi(const Mask& m, T* d, const T* a, const T* b, const u32* position, const u32* length);
void lop3(const Mask& m, u32* d, const u32* a, const u32* b, const u32* c, u32 table);
void prmt(const Mask& m, u32* d, const u32* a, const u32* b, const u32* selector);
void shf(const Mask& m, u32* d, const u32* a, const u32* b, const u32* c, bool left, bool clamp);
template <bool A, bool B>
void dp4a(const Mask& m, u32* d, const u32* a, const u32* b, const u32* c);

// ------------------------------------------------------------------------------- predicates

enum class Compare { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan };

template <class T>
void setp(const Mask& m, Compare how, s32* p, const T* a, const T* b);
template <class F>
void setp_float(const Mask& m, Compare how, s32* p, const typename F::Bits* a,
                const typename F::Bits* b);
void not_pred(const Mask& m, s32* d, const s32* a);
template <class T>
void selp(const Mask& m, T* d, const T* a, const T* b, const s32* p);

// ------------------------------------------------------------------------------- registers

// `parts` narrow registers in one wide register, the first lowest; null: left out.
template <class Part, class Whole>
void pack(const Mask& m, Whole* d, const Part* const* parts);
template <class Part, class Whole>
void unpack(const Mask& m, Part* const* parts, const Whole* a);

// ------------------------------------------------------------------------------- floats

struct F32 {
  using Bits = u32;
};
struct F32Z {
  using Bits = u32;
};
struct F64 {
  using Bits = u64;
};
struct F16 {
  using Bits = u16;
};
struct BF16 {
  using Bits = u16;
};
struct F16X2 {
  using Bits = u32;
};
struct BF16X2 {
  using Bits = u32;
};

// What becomes of a result: .sat clips it to [0, 1], .relu to >= 0.
enum class Clip { none, sat, relu };

#define PTX_FLOAT_UNARY(X) \
  X(fneg) X(fabs_) X(rcp) X(sqrt_) X(rsqrt) X(ex2) X(lg2) X(tanh_) X(sin_) X(cos_)
#define PTX_FLOAT_BINARY(X) X(fadd) X(fsub) X(fmul) X(fdiv) X(fmin_) X(fmax_) X(fmin_nan) X(fmax_nan)
#define PTX_DECLARE(name) \
  template <class F>      \
  void name(const Mask& m, typename F::Bits* d, const typename F::Bits* a);
PTX_FLOAT_UNARY(PTX_DECLARE)
#undef PTX_DECLARE
#define PTX_DECLARE(name) \
  template <class F>      \
  void name(const Mask& m, typename F::Bits* d, const typename F::Bits* a, const typename F::Bits* b);
PTX_FLOAT_BINARY(PTX_DECLARE)
#undef PTX_DECLARE
template <class F>
void fma_(const Mask& m, typename F::Bits* d, const typename F::Bits* a, const typename F::Bits* b,
          const typename F::Bits* c);
template <class F>
void clip(const Mask& m, Clip how, typename F::Bits* d);
void copysign_(const Mask& m, u32* d, const u32* a, const u32* b);

// ------------------------------------------------------------------------------- conversions

enum class Round { none, rn, rz, rm, rp, rna, rni, rzi, rmi, rpi };

// A conversion goes by way of the widest type of its kind, which holds every source exactly.
template <class T, class Register>
void widen(Lanes<s64>& wide, const Register* a);
template <class T, class Register>
void narrow(const Mask& m, Register* d, const Lanes<s64>& wide, bool from_unsigned, bool saturate);
template <class F>
void widen_float(Lanes<double>& wide, const typename F::Bits* a);
template <class F>
void narrow_float(const Mask& m, typename F::Bits* d, const Lanes<double>& wide, Round round, Clip clip);
void narrow_tf32(const Mask& m, u32* d, const Lanes<double>& wide, Round round);
// `odd`: what does not fit ends in an odd bit, so that it can be rounded once more.
void to_double(Lanes<double>& wide, const Lanes<s64>& whole, bool from_unsigned, bool odd);
template <class T>
void to_integer(Lanes<s64>& whole, const Lanes<double>& wide, Round round, bool from_double);
void to_integral(Lanes<double>& wide, Round round);
// Two floats to a register: the first operand is the upper half.
void merge_halves(const Mask& m, u32* d, const u16* high, const u16* low);
// E4M3 and E5M2, two to a register.
void narrow_e4m3x2(const Mask& m, u16* d, const Lanes<double>& high, const Lanes<double>& low);
void widen_e4m3x2(const Mask& m, u32* d, const u16* a);

// ------------------------------------------------------------------------------- memory

// Where a load puts an element, or a store finds it.
struct Element {
  void* lanes;  // null: `_`
  u32 width;    // bytes of a lane's register
};

struct Access {
  u32 bytes;         // of an element
  u32 count;         // elements
  bool sign_extend;  // into a wider register
};

void load_parameter(const Warp& w, const Mask& m, u32 offset, Access access, const Element* to);
void load_global(Warp& w, const Mask& m, const Site& site, const u64* address, s64 offset, Access access,
                 const Element* to);
void store_global(Warp& w, const Mask& m, const Site& site, const u64* address, s64 offset,
                  Access access, const Element* from);
void load_shared(Warp& w, const Mask& m, const Site& site, const u32* address, s64 offset, Access access,
                 const Element* to);
void store_shared(Warp& w, const Mask& m, const Site& site, const u32* address, s64 offset,
                  Access access, const Element* from);

enum class Atomic { add, min, max, and_, or_, xor_, exch, cas, inc, dec };
// d may be null (red).  c: the value to store, for cas.
template <class T>
void atomic(Warp& w, const Mask& m, const Site& site, Atomic how, bool acquire, T* d, const u64* address,
            s64 offset, const T* b, const T* c);
template <class F>
void atomic_add_float(Warp& w, const Mask& m, const Site& site, bool acquire, typename F::Bits* d,
                      const u64* address, s64 offset, const typename F::Bits* b);
void fence(Warp& w);

// source_size null: all of it.
void copy_async(Warp& w, const Mask& m, const Site& site, const u32* shared, s64 shared_offset,
                const u64* global, s64 global_offset, u32 size, const u32* source_size);
void commit_copies(Warp& w, const Mask& m, const Site& site);
// Makes all groups but the last `pending` visible.
void wait_for_copies(Warp& w, const Mask& m, const Site& site, u32 pending);
void wait_for_all_copies(Warp& w, const Mask& m, const Site& site);

// ------------------------------------------------------------------------------- of a warp

enum class Shuffle { up, down, bfly, idx };
void shfl(Warp& w, const Mask& m, const Site& site, Shuffle how, u32* d, s32* p, const u32* a,
          const u32* b, const u32* c, const u32* members);
enum class Vote { all, any, uni };
void vote(Warp& w, const Mask& m, const Site& site, Vote how, s32* d, const s32* p, bool negated,
          const u32* members);
void ballot(Warp& w, const Mask& m, const Site& site, u32* d, const s32* p, bool negated,
            const u32* members);
void active_mask(Warp& w, const Mask& m, u32* d);
template <class T>
void redux(Warp& w, const Mask& m, const Site& site, Atomic how, T* d, const T* a, const u32* members);
void sync_warp(Warp& w, const Mask& m, const Site& site, const u32* members);

void load_matrices(Warp& w, const Mask& m, const Site& site, int count, bool transposed, u32* const* d,
                   const u32* address, s64 offset);
void store_matrices(Warp& w, const Mask& m, const Site& site, int count, bool transposed,
                    const u32* const* a, const u32* address, s64 offset);

struct TF32 {};
struct S8 {};
struct U8 {};
// d = a b + c of shape m16n8kK.  The registers as the PTX ISA lays them out.
template <class T, int K>
void mma(Warp& w, const Mask& m, const Site& site, u32* const* d, const u32* const* a,
         const u32* const* b, const u32* const* c);

// wgmma: d of 64 x columns, computed when it is waited for.  adds null: d is not added to.
void multiply_later(Warp& w, const Mask& m, const Site& site, u32 columns, bool bf16, u32* const* d,
                    const u64* a, const u64* b, const s32* adds, bool transpose_a, bool transpose_b);
// The same with a in registers, each warp's 16 rows as in an mma of m16n8k16.
void multiply_later(Warp& w, const Mask& m, const Site& site, u32 columns, bool bf16, u32* const* d,
                    const u32* const* a, const u64* b, const s32* adds, bool transpose_b);
void commit_products(Warp& w, const Mask& m, const Site& site);
void wait_for_products(Warp& w, const Mask& m, const Site& site, u32 pending);

}  // namespace ptx

#endif  // MOE_EXPORT_TOOLS_PTX_OPS_H_

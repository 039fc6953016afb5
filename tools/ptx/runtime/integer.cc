// Integer instructions, as the PTX ISA says they wrap and clamp.
#include <type_traits>

#include "each.h"
#include "ops.h"

namespace ptx {

// Wrapping arithmetic without the promotions of C: a 16-bit product must not overflow an int.
template <class T>
using Unsigned = std::conditional_t<sizeof(T) == 2, u32, std::make_unsigned_t<T>>;

template <class T>
void neg(const Mask& m, T* d, const T* a) {
  each(m, d, [&](int i) { return Unsigned<T>(0) - Unsigned<T>(a[i]); });
}

template <class T>
void abs_int(const Mask& m, T* d, const T* a) {
  each(m, d, [&](int i) { return a[i] < 0 ? Unsigned<T>(0) - Unsigned<T>(a[i]) : Unsigned<T>(a[i]); });
}

template <class T>
void not_bits(const Mask& m, T* d, const T* a) {
  each(m, d, [&](int i) { return ~a[i]; });
}

template <class T>
void brev(const Mask& m, T* d, const T* a) {
  each(m, d, [&](int i) {
    T reversed = 0;
    for (size_t bit = 0; bit < 8 * sizeof(T); ++bit)
      reversed |= (a[i] >> bit & 1) << (8 * sizeof(T) - 1 - bit);
    return reversed;
  });
}

template <class T>
void add(const Mask& m, T* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return Unsigned<T>(a[i]) + Unsigned<T>(b[i]); });
}

template <class T>
void sub(const Mask& m, T* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return Unsigned<T>(a[i]) - Unsigned<T>(b[i]); });
}

template <class T>
void mul_lo(const Mask& m, T* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return Unsigned<T>(a[i]) * Unsigned<T>(b[i]); });
}

template <class T>
T high_product(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  return static_cast<T>(Wide(a) * Wide(b) >> 8 * sizeof(T));
}

template <class T>
void mul_hi(const Mask& m, T* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return high_product(a[i], b[i]); });
}

// Division by zero has no defined result; real devices give all ones.
template <class T>
T quotient(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if (std::is_signed_v<T> && b == static_cast<T>(-1))
    return static_cast<T>(Unsigned<T>(0) - Unsigned<T>(a));
  return a / b;
}

template <class T>
void div_int(const Mask& m, T* d, const T* a, const T* b) {
  each_active(m.bits, [&](int i) { d[i] = quotient(a[i], b[i]); });
}

template <class T>
void rem(const Mask& m, T* d, const T* a, const T* b) {
  each_active(m.bits, [&](int i) {
    d[i] =
        b[i] == 0
            ? a[i]
            : static_cast<T>(Unsigned<T>(a[i]) - Unsigned<T>(quotient(a[i], b[i])) * Unsigned<T>(b[i]));
  });
}

template <class T>
void min_int(const Mask& m, T* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return a[i] < b[i] ? a[i] : b[i]; });
}

template <class T>
void max_int(const Mask& m, T* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return a[i] < b[i] ? b[i] : a[i]; });
}

template <class T>
void and_bits(const Mask& m, T* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return a[i] & b[i]; });
}

template <class T>
void or_bits(const Mask& m, T* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return a[i] | b[i]; });
}

template <class T>
void xor_bits(const Mask& m, T* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return a[i] ^ b[i]; });
}

template <class T>
void mov(const Mask& m, T* d, const T* a) {
  each(m, d, [&](int i) { return a[i]; });
}

template <class T>
void mad_lo(const Mask& m, T* d, const T* a, const T* b, const T* c) {
  each(m, d, [&](int i) { return Unsigned<T>(a[i]) * Unsigned<T>(b[i]) + Unsigned<T>(c[i]); });
}

template <class T>
void mad_hi(const Mask& m, T* d, const T* a, const T* b, const T* c) {
  each(m, d, [&](int i) { return Unsigned<T>(high_product(a[i], b[i])) + Unsigned<T>(c[i]); });
}

template <class T, class Wide>
void mul_wide(const Mask& m, Wide* d, const T* a, const T* b) {
  each(m, d, [&](int i) { return Wide(a[i]) * Wide(b[i]); });
}

template <class T, class Wide>
void mad_wide(const Mask& m, Wide* d, const T* a, const T* b, const Wide* c) {
  using Bits = std::make_unsigned_t<Wide>;
  each(m, d, [&](int i) { return Bits(Wide(a[i]) * Wide(b[i])) + Bits(c[i]); });
}

template <class T>
void shl(const Mask& m, T* d, const T* a, const u32* b) {
  constexpr u32 bits = 8 * sizeof(T);
  each(m, d, [&](int i) { return b[i] < bits ? static_cast<T>(a[i] << (b[i] & (bits - 1))) : T(0); });
}

template <class T>
void shr(const Mask& m, T* d, const T* a, const u32* b) {
  constexpr u32 bits = 8 * sizeof(T);
  each(m, d, [&](int i) {
    if (std::is_signed_v<T>) return static_cast<T>(a[i] >> (b[i] < bits ? b[i] : bits - 1));
    return b[i] < bits ? static_cast<T>(a[i] >> (b[i] & (bits - 1))) : T(0);
  });
}

template <class T>
void popc(const Mask& m, u32* d, const T* a) {
  each(m, d, [&](int i) { return __builtin_popcountll(a[i]); });
}

template <class T>
void clz(const Mask& m, u32* d, const T* a) {
  each(m, d, [&](int i) { return a[i] ? __builtin_clzll(a[i]) - (64 - 8 * sizeof(T)) : 8 * sizeof(T); });
}

template <class T>
void bfind(const Mask& m, u32* d, const T* a) {
  each(m, d, [&](int i) {
    const s64 value = a[i];
    const u64 sought =
        std::is_signed_v<T> && value < 0 ? ~u64(value) : u64(std::make_unsigned_t<T>(a[i]));
    return sought ? 63 - __builtin_clzll(sought) : ~0u;
  });
}

template <class T>
void bfe(const Mask& m, T* d, const T* a, const u32* position, const u32* length) {
  using Bits = std::make_unsigned_t<T>;
  constexpr u32 bits = 8 * sizeof(T);
  each(m, d, [&](int i) {
    const u32 first = position[i] & 0xff, count = length[i] & 0xff;
    if (count == 0) return T(0);
    const u32 last = first + count - 1 < bits - 1 ? first + count - 1 : bits - 1;
    const bool sign = std::is_signed_v<T> && (Bits(a[i]) >> last & 1);
    const Bits kept = first < bits ? Bits(a[i]) >> first : Bits(0);
    if (first > last) return sign ? static_cast<T>(-1) : T(0);
    const u32 width = last - first + 1;
    const Bits field = width == bits ? ~Bits(0) : (Bits(1) << width) - 1;
    return static_cast<T>(sign ? kept | ~field : kept & field);
  });
}

template <class T>
void bfi(const Mask& m, T* d, const T* a, const T* b, const u32* position, const u32* length) {
  constexpr u32 bits = 8 * sizeof(T);
  each(m, d, [&](int i) {
    const u32 first = position[i] & 0xff, count = length[i] & 0xff;
    if (first >= bits || count == 0) return b[i];
    const T field = (count >= bits ? ~T(0) : static_cast<T>((T(1) << count) - 1)) << first;
    return static_cast<T>((b[i] & ~field) | (a[i] << first & field));
  });
}

void lop3(const Mask& m, u32* d, const u32* a, const u32* b, const u32* c, u32 table) {
  u32 row[8];
  for (int r = 0; r < 8; ++r) row[r] = table >> r & 1 ? kAllLanes : 0;
  each(m, d, [&](int i) {
    const u32 x = a[i], y = b[i], z = c[i];
    return (row[0] & ~x & ~y & ~z) | (row[1] & ~x & ~y & z) | (row[2] & ~x & y & ~z) |
           (row[3] & ~x & y & z) | (row[4] & x & ~y & ~z) | (row[5] & x & ~y & z) |
           (row[6] & x & y & ~z) | (row[7] & x & y & z);
  });
}

void prmt(const Mask& m, u32* d, const u32* a, const u32* b, const u32* selector) {
  each(m, d, [&](int i) {
    const u64 bytes = u64(b[i]) << 32 | a[i];
    u32 result = 0;
    for (int at = 0; at < 4; ++at) {
      const u32 choice = selector[i] >> 4 * at;
      u32 byte = u32(bytes >> 8 * (choice & 7)) & 0xff;
      if (choice & 8) byte = byte & 0x80 ? 0xff : 0;  // the sign of the byte, replicated
      result |= byte << 8 * at;
    }
    return result;
  });
}

void shf(const Mask& m, u32* d, const u32* a, const u32* b, const u32* c, bool left, bool clamp) {
  each(m, d, [&](int i) {
    const u64 both = u64(b[i]) << 32 | a[i];
    const u32 n = clamp ? (c[i] < 32 ? c[i] : 32) : c[i] & 31;
    return left ? u32(both << n >> 32) : u32(both >> n);
  });
}

template <bool A, bool B>
void dp4a(const Mask& m, u32* d, const u32* a, const u32* b, const u32* c) {
  each(m, d, [&](int i) {
    u32 sum = c[i];
    for (int byte = 0; byte < 4; ++byte) {
      const s32 x = A ? s32(s8(a[i] >> 8 * byte)) : s32(u8(a[i] >> 8 * byte));
      const s32 y = B ? s32(s8(b[i] >> 8 * byte)) : s32(u8(b[i] >> 8 * byte));
      sum += u32(x * y);
    }
    return sum;
  });
}

template <class T>
void compare(const Mask& m, Compare how, s32* p, const T* a, const T* b) {
  switch (how) {
    case Compare::eq: return each(m, p, [&](int i) { return -s32(a[i] == b[i]); });
    case Compare::ne: return each(m, p, [&](int i) { return -s32(a[i] != b[i]); });
    case Compare::lt: return each(m, p, [&](int i) { return -s32(a[i] < b[i]); });
    case Compare::le: return each(m, p, [&](int i) { return -s32(a[i] <= b[i]); });
    case Compare::gt: return each(m, p, [&](int i) { return -s32(a[i] > b[i]); });
    default: return each(m, p, [&](int i) { return -s32(a[i] >= b[i]); });
  }
}

template <class T>
void setp(const Mask& m, Compare how, s32* p, const T* a, const T* b) {
  compare(m, how, p, a, b);
}

void not_pred(const Mask& m, s32* d, const s32* a) {
  each(m, d, [&](int i) { return ~a[i]; });
}

template <class T>
void selp(const Mask& m, T* d, const T* a, const T* b, const s32* p) {
  each(m, d, [&](int i) { return p[i] ? a[i] : b[i]; });
}

template <class Part, class Whole>
void pack(const Mask& m, Whole* d, const Part* const* parts) {
  each_active(m.bits, [&](int i) {
    Whole whole = 0;
    for (size_t k = 0; k < sizeof(Whole) / sizeof(Part); ++k)
      whole |= Whole(parts[k][i]) << 8 * sizeof(Part) * k;
    d[i] = whole;
  });
}

template <class Part, class Whole>
void unpack(const Mask& m, Part* const* parts, const Whole* a) {
  each_active(m.bits, [&](int i) {
    const Whole whole = a[i];
    for (size_t k = 0; k < sizeof(Whole) / sizeof(Part); ++k)
      if (parts[k]) parts[k][i] = static_cast<Part>(whole >> 8 * sizeof(Part) * k);
  });
}

#define PTX_UNARY(name, T) template void name(const Mask&, T*, const T*);
#define PTX_BINARY(name, T) template void name(const Mask&, T*, const T*, const T*);
#define PTX_ARITHMETIC(T)                                                                    \
  PTX_UNARY(neg, T)                                                                          \
  PTX_UNARY(abs_int, T) PTX_BINARY(add, T) PTX_BINARY(sub, T) PTX_BINARY(mul_lo, T)          \
      PTX_BINARY(mul_hi, T) PTX_BINARY(div_int, T) PTX_BINARY(rem, T) PTX_BINARY(min_int, T) \
          PTX_BINARY(max_int, T) template void                                               \
          mad_lo(const Mask&, T*, const T*, const T*, const T*);                             \
  template void mad_hi(const Mask&, T*, const T*, const T*, const T*);                       \
  template void shr(const Mask&, T*, const T*, const u32*);                                  \
  template void setp(const Mask&, Compare, s32*, const T*, const T*);
#define PTX_BITS(T)                                                \
  PTX_UNARY(not_bits, T)                                           \
  PTX_UNARY(mov, T) PTX_BINARY(and_bits, T) PTX_BINARY(or_bits, T) \
      PTX_BINARY(xor_bits, T) template void                        \
      shl(const Mask&, T*, const T*, const u32*);                  \
  template void selp(const Mask&, T*, const T*, const T*, const s32*);
#define PTX_FIELDS(T)                                                   \
  template void bfe(const Mask&, T*, const T*, const u32*, const u32*); \
  template void bfind(const Mask&, u32*, const T*);
#define PTX_UNSIGNED_FIELDS(T)                     \
  PTX_UNARY(brev, T)                               \
  template void popc(const Mask&, u32*, const T*); \
  template void clz(const Mask&, u32*, const T*);  \
  template void bfi(const Mask&, T*, const T*, const T*, const u32*, const u32*);
#define PTX_WIDE(T, Wide)                                         \
  template void mul_wide(const Mask&, Wide*, const T*, const T*); \
  template void mad_wide(const Mask&, Wide*, const T*, const T*, const Wide*);
#define PTX_PACK(Part, Whole)                                  \
  template void pack(const Mask&, Whole*, const Part* const*); \
  template void unpack(const Mask&, Part* const*, const Whole*);

PTX_ARITHMETIC(u16)
PTX_ARITHMETIC(s16) PTX_ARITHMETIC(u32) PTX_ARITHMETIC(s32) PTX_ARITHMETIC(u64) PTX_ARITHMETIC(s64)
    PTX_BITS(u16) PTX_BITS(u32) PTX_BITS(u64) PTX_UNARY(mov, s32) PTX_BINARY(and_bits, s32)
        PTX_BINARY(or_bits, s32) PTX_BINARY(xor_bits, s32) PTX_FIELDS(u32) PTX_FIELDS(s32)
            PTX_FIELDS(u64) PTX_FIELDS(s64) PTX_UNSIGNED_FIELDS(u32) PTX_UNSIGNED_FIELDS(u64)
                PTX_WIDE(u16, u32) PTX_WIDE(s16, s32) PTX_WIDE(u32, u64) PTX_WIDE(s32,
                                                                                  s64) PTX_UNARY(mov, u8)
                    PTX_PACK(u8, u16) PTX_PACK(u8, u32) PTX_PACK(u16, u32) PTX_PACK(u16, u64)
                        PTX_PACK(u32, u64) template void dp4a<true, true>(const Mask&, u32*, const u32*,
                                                                          const u32*, const u32*);
template void dp4a<true, false>(const Mask&, u32*, const u32*, const u32*, const u32*);
template void dp4a<false, true>(const Mask&, u32*, const u32*, const u32*, const u32*);
template void dp4a<false, false>(const Mask&, u32*, const u32*, const u32*, const u32*);

}  // namespace ptx

// AMX's registers: tiles of at most 16 rows of 64 bytes.  Included by isa_avx512_amx.cc, in an unnamed
// namespace.

constexpr size_t kTileRows = 16, kLine = 64, kTileBytes = kTileRows * kLine;

// The eight registers: sums in 0 to 3, rows in 4 and 5, weights in 6 and 7.  Their numbers are part of
// the instructions; a function of a number is one instruction.
#define MOE_EACH_TILE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)

template <int kTile>
MOE_INLINE inline void tile_zero() {
#define MOE_DO(N) if constexpr (kTile == N) _tile_zero(N);
  MOE_EACH_TILE(MOE_DO)
#undef MOE_DO
}

template <int kTile>
MOE_INLINE inline void tile_load(const void* at, size_t stride) {
#define MOE_DO(N) if constexpr (kTile == N) _tile_loadd(N, at, stride);
  MOE_EACH_TILE(MOE_DO)
#undef MOE_DO
}

template <int kTile>
MOE_INLINE inline void tile_store(void* at, size_t stride) {
#define MOE_DO(N) if constexpr (kTile == N) _tile_stored(N, at, stride);
  MOE_EACH_TILE(MOE_DO)
#undef MOE_DO
}

#undef MOE_EACH_TILE

// Sums += rows times weights: of signed bytes where kBytes, else of bfloat16.
template <bool kBytes, int kSums, int kRows, int kWeights>
MOE_INLINE inline void tile_product() {
  static_assert(kSums < 4 && (kRows == 4 || kRows == 5) && (kWeights == 6 || kWeights == 7));
#define MOE_DO(S, R, W)                                        \
  if constexpr (kSums == S && kRows == R && kWeights == W) {   \
    if constexpr (kBytes) _tile_dpbssd(S, R, W);               \
    if constexpr (!kBytes) _tile_dpbf16ps(S, R, W);            \
  }
#define MOE_EACH_SUM(R, W) MOE_DO(0, R, W) MOE_DO(1, R, W) MOE_DO(2, R, W) MOE_DO(3, R, W)
  MOE_EACH_SUM(4, 6) MOE_EACH_SUM(4, 7) MOE_EACH_SUM(5, 6) MOE_EACH_SUM(5, 7)
#undef MOE_EACH_SUM
#undef MOE_DO
}

// What the program wrote is in memory now: of a tile's instructions the compiler knows the address
// that they read, not the bytes.
MOE_INLINE inline void settle(const void* at) { asm volatile("" : : "r"(at) : "memory"); }

// Sizes of the registers while it lives.  They are given back: a thread whose tiles are in use costs
// more to interrupt.
class Tiles {
 public:
  // Rows have `bytes` bytes, and weights a line for each four of them.  Registers 0, 1 and 4 have
  // `first` rows, 2, 3 and 5 have `second`.
  Tiles(size_t first, size_t second, size_t bytes) {
    struct alignas(64) {  // as LDTILECFG reads it
      uint8_t palette = 1, start = 0, unused[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; ++tile) {
      const bool is_rows = tile == 4 || tile == 5;
      const bool is_second = tile == 2 || tile == 3 || tile == 5;
      shape.bytes[tile] = uint16_t(is_rows ? bytes : kLine);
      shape.rows[tile] = uint8_t(tile > 5 ? bytes / 4 : is_second ? second : first);
    }
    settle(&shape);
    _tile_loadconfig(&shape);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// Rows as tiles read them: evenly spaced.
struct EvenRows {
  const uint8_t* first;
  size_t stride;

  const uint8_t* at(size_t row) const { return first + row * stride; }

  // Bytes [begin, end) of `count` rows.  Where they lie, if that is evenly and `unit` bytes at a time
  // end at `end`; else copied into `buffer`, with zeros up to whole units.
  static EvenRows of(const void* const* rows, size_t count, size_t begin, size_t end, size_t unit,
                     uint8_t* buffer) {
    const auto byte_of = [rows](size_t r) { return static_cast<const uint8_t*>(rows[r]); };
    const ptrdiff_t stride = count > 1 ? byte_of(1) - byte_of(0) : ptrdiff_t(kLine);
    bool is_even = stride > 0 && (end - begin) % unit == 0;
    for (size_t r = 2; is_even && r < count; ++r) is_even = byte_of(r) - byte_of(r - 1) == stride;
    if (is_even) return {byte_of(0) + begin, size_t(stride)};
    const size_t bytes = round_up(end - begin, unit);
    for (size_t r = 0; r < count; ++r) {
      uint8_t* const to = buffer + r * bytes;
      __builtin_memcpy(to, byte_of(r) + begin, end - begin);
      __builtin_memset(to + (end - begin), 0, bytes - (end - begin));
    }
    settle(buffer);
    return {buffer, bytes};
  }
};

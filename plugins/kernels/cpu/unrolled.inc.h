// Loops written out by the compiler's front end.  Included by each isa_*.cc first, in an unnamed
// namespace.

#define MOE_INLINE __attribute__((always_inline))

// body(std::integral_constant) for 0 .. N-1, written out: arrays that are indexed by constants alone
// become registers.  (Left to unroll loops itself, GCC 12 kept a copy of all sums in memory and
// wrote it in each step, at half the speed.)
template <class Body, size_t... kIndices>
MOE_INLINE inline void unrolled(std::index_sequence<kIndices...>,
                                                    const Body& body) {
  (body(std::integral_constant<size_t, kIndices>{}), ...);
}

template <int N, class Body>
MOE_INLINE inline void unrolled(const Body& body) {
  unrolled(std::make_index_sequence<N>{}, body);
}

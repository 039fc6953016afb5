// Compiles only if ours.h, a header of this project with its namespace called ort_abi, and ONNX Runtime's
// own describe the same interface.
#include <onnxruntime_c_api.h>

#include <type_traits>

#include "ours.h"

// Whether two types are passed alike: opaque structs are all one, functions agree in each part.
template <typename Ours, typename Theirs>
struct Alike
    : std::bool_constant<std::is_same_v<Ours, Theirs> ||
                         (std::is_enum_v<Ours> && std::is_enum_v<Theirs>) ||
                         (std::is_class_v<Ours> && std::is_class_v<Theirs>)> {};
template <typename Ours, typename Theirs>
struct Alike<const Ours, const Theirs> : Alike<Ours, Theirs> {};
template <typename Ours, typename Theirs>
struct Alike<Ours*, Theirs*> : Alike<Ours, Theirs> {};
template <typename R, typename... A, typename S, typename... B>
struct Alike<R(A...), S(B...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(A) == sizeof...(B)) {
      return Alike<R, S>::value && (Alike<A, B>::value && ...);
    } else {
      return false;
    }
  }();
};
template <typename R, typename... A, typename S, typename... B>
struct Alike<R(A...), S(B...) noexcept> : Alike<R(A...), S(B...)> {};

// What would let a wrong header pass.
static_assert(!Alike<int*, const int*>::value);
static_assert(!Alike<int(int), int(int, int)>::value);
static_assert(!Alike<void(size_t), void(int)>::value);
static_assert(!Alike<OrtStatus*, OrtStatus**>::value);

#define SAME_MEMBER(type, member)                                                        \
  static_assert(offsetof(ort_abi::type, member) == offsetof(::type, member), #member);   \
  static_assert(Alike<decltype(ort_abi::type::member), decltype(::type::member)>::value, \
                "type of " #member);
#define SAME_VALUE(name) \
  static_assert(static_cast<int>(ort_abi::name) == static_cast<int>(::name), #name);

SAME_MEMBER(OrtApiBase, GetApi)
SAME_MEMBER(OrtApiBase, GetVersionString)

// The table of ours ends behind its newest slot.
#define LAST_MEMBER(member) \
  static_assert(sizeof(ort_abi::OrtApi) == offsetof(::OrtApi, member) + sizeof(void*));
#define KNOWN_VERSION(name) static_assert(ort_abi::name <= ORT_API_VERSION);

// Written by test_abi.py: a SAME_MEMBER for each function of OrtApi and OrtCustomOp, the LAST_MEMBER, a
// SAME_VALUE for each name of an enum, a KNOWN_VERSION for each version that is asked for.
#include "members.inc"

int main() {}

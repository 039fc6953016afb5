// What a decoder carries on: keys and values that grow where they lie, and states; the twin of
// moe_export/runtime/cache.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_CACHE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_CACHE_H_

#include <memory>
#include <string>
#include <vector>

#include "core/array.h"
#include "session/session.h"

namespace moe::runtime {

// Rows of logits in memory that somebody else owns.
struct Logits {
  const float* data = nullptr;
  size_t vocabulary = 0;
  size_t stride = 0;  // from a row to the next, in numbers
  const float* row(size_t index) const { return data + index * stride; }
};

// What a decoder remembers of so many texts, from nothing on.
//
// Where the bundle says that a cache may grow in place, no run copies it: there is room behind it, and a
// run writes its own rows there.  Twice as much room and more is made whenever it is used up.
class Cache {
 public:
  // `max_tokens` is the most there will ever be, padding included; 0 is no limit.
  Cache(const Session& decoder, int64_t batch, int64_t max_tokens);

  // Tokens of each text so far, padding included.
  int64_t length() const { return length_; }
  int64_t batch() const { return batch_; }

  // Whether it counts all that it holds by tokens; a state keeps what it has seen.
  bool can_be_cut() const;
  // Whether what follows its prompt is attended to in another way than the prompt is.  Then no other
  // text is behind what it holds, be that the text's beginning.
  bool is_of_one_prompt() const;
  // Forgets all but the first tokens, of which there are as many; not without can_be_cut.
  void cut(int64_t length);

  // A cache of several texts, each of which is all of one cache; shorter ones have padding in front.
  static std::unique_ptr<Cache> joined(const Session& decoder,
                                       const std::vector<const Cache*>& texts, int64_t max_tokens);
  // Goes on with these texts alone, in this order, without what is padding in all of them.
  void keep(const std::vector<size_t>& rows);

  // The logits of the last of `count` tokens that follow; valid until the next run.  `inputs` are the
  // decoder's own but for masks and caches.  Raises Error(memory) for more tokens than there may be, and
  // what Session::run_into raises; the cache is then as it was.
  Logits run(std::vector<Named> inputs, int64_t count, const Stop* stop);

 private:
  struct Past {
    TensorInfo info;
    std::string present;
    bool grows;
    int tokens_axis, batch_axis;  // -1: none
    Array rows;                   // with room behind them where they grow
  };

  Array zeros(const TensorInfo& info, int64_t tokens, int64_t run) const;
  View view(Past& past, int64_t length) const;
  void make_room(int64_t tokens);
  void make_mask(int64_t room);

  const Session* decoder_;
  int64_t batch_, max_tokens_;
  int64_t length_ = 0, room_ = 0;
  std::vector<Past> pasts_;
  std::vector<int64_t> mask_;  // [batch, room]
  std::vector<int64_t> given_mask_;
  TensorInfo logits_info_;
  Array logits_;
};

// What to do about a full cache.
constexpr const char* kRoomHint = "allow more with max_cache_tokens, or ask for a shorter answer";

// Refuses a decoder that does not give what goes in as `past_`, and logits beside it.
void require_outputs(const Session& decoder);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_CACHE_H_

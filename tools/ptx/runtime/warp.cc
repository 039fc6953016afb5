// What the lanes of a warp do together, and the ways they part and meet.
#include "each.h"
#include "launch.h"

namespace ptx {

void fail(const Site& site, int lane, std::string what) {
  throw Fault{lane, site.line, what + "\n  " + site.text};
}

void require_whole_warp(const Warp& w, const Mask& m, const Site& site) {
  if (m.bits == kAllLanes) return;
  fail(site, -1,
       "runs in lanes " + hex(m.bits) + " only, but is for the whole warp" +
           (w.live == kAllLanes ? "" : " (lanes have exited)"));
}

static void require_members(const Warp& w, const Mask& m, const Site& site, const u32* members) {
  each_active(m.bits, [&](int lane) {
    const u32 wanted = members[lane] & w.live;
    if (!(members[lane] >> lane & 1)) fail(site, lane, "is not among the members that it names");
    if (wanted & ~m.bits)
      fail(site, lane, "names lanes " + hex(wanted & ~m.bits) + ", which are elsewhere");
  });
}

static void set_mask(Mask& mask, u32 bits) {
  mask.bits = bits;
  for (int i = 0; i < kLanes; ++i) mask.lane.v[i] = -s32(bits >> i & 1);
}

static u32 bits_of(const s32* lanes) {
  u32 bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= u32(lanes[i] & 1) << i;
  return bits;
}

const Mask& when(Warp& w, const Predicate& p, bool negated) {
  const s32 flip = negated ? -1 : 0;
  for (int i = 0; i < kLanes; ++i) w.guarded.lane.v[i] = (p.v[i] ^ flip) & w.active.lane.v[i];
  w.guarded.bits = bits_of(w.guarded.lane.v);
  return w.guarded;
}

int branch(Warp& w, const Predicate& p, bool negated, int taken, int other, int join) {
  const u32 all = w.active.bits, go = when(w, p, negated).bits;
  if (go == all) return taken;
  if (go == 0) return other;
  w.splits.push_back({join, join, all});
  w.splits.push_back({join, other, all & ~go});
  set_mask(w.active, go);
  return taken;
}

int choose(Warp& w, const Site& site, const u32* index, const int* ways, u32 count, int join) {
  const u32 all = w.active.bits;
  each_active(all, [&](int lane) {
    if (index[lane] >= count)
      fail(site, lane, "takes way " + std::to_string(index[lane]) + " of " + std::to_string(count));
  });
  if (!all) return join;
  const int first = ways[index[__builtin_ctz(all)]];
  u32 left = 0;
  each_active(all, [&](int lane) { left |= u32(ways[index[lane]] != first) << lane; });
  if (!left) return first;
  w.splits.push_back({join, join, all});
  for (u32 others = left; others;) {
    const int way = ways[index[__builtin_ctz(others)]];
    u32 there = 0;
    each_active(others, [&](int lane) { there |= u32(ways[index[lane]] == way) << lane; });
    w.splits.push_back({join, way, there});
    others &= ~there;
  }
  set_mask(w.active, all & ~left);
  return first;
}

// The last lanes that split go on; -1 where there are none.
static int take_split(Warp& w, int block) {
  while (!w.splits.empty()) {
    const Split split = w.splits.back();
    w.splits.pop_back();
    if (!(split.bits & w.live)) continue;
    set_mask(w.active, split.bits & w.live);
    return split.block;
  }
  return block;
}

int enter(Warp& w, int block) {
  if (++w.steps > 100000000) throw Fault{-1, 0, "does not end: 100 million basic blocks were run"};
  while (!w.splits.empty() && w.splits.back().join == block) block = take_split(w, block);
  return block;
}

int leave(Warp& w) {
  w.live &= ~w.active.bits;
  return take_split(w, -1);
}

Stop wait_at_barrier(Warp& w, const Site& site, u32 barrier, u32 threads, bool arrive_only) {
  require_whole_warp(w, w.active, site);
  if (threads % kLanes) fail(site, -1, "waits for a number of threads that is no number of warps");
  w.barrier = barrier;
  w.barrier_threads = threads;
  return arrive_only ? Stop::arrived : Stop::barrier;
}

void shfl(Warp& w, const Mask& m, const Site& site, Shuffle how, u32* d, s32* p, const u32* a,
          const u32* b, const u32* c, const u32* members) {
  require_members(w, m, site, members);
  u32 from[kLanes];
  std::memcpy(from, a, sizeof from);
  u32 result[kLanes];
  s32 in_range[kLanes] = {};
  each_active(m.bits, [&](int lane) {
    const int distance = b[lane] & 31, clamp = c[lane] & 31, segment = c[lane] >> 8 & 31;
    const int last = (lane & segment) | (clamp & ~segment), first = lane & segment;
    int source = 0;
    bool inside = false;
    switch (how) {
      case Shuffle::up: source = lane - distance, inside = source >= last; break;
      case Shuffle::down: source = lane + distance, inside = source <= last; break;
      case Shuffle::bfly: source = lane ^ distance, inside = source <= last; break;
      case Shuffle::idx: source = first | (distance & ~segment), inside = source <= last; break;
    }
    if (!inside) source = lane;
    if (!(m.bits >> source & 1))
      fail(site, lane, "takes from lane " + std::to_string(source) + ", which does not run");
    result[lane] = from[source];
    in_range[lane] = -s32(inside);
  });
  if (d) each(m, d, [&](int i) { return result[i]; });
  if (p) each(m, p, [&](int i) { return in_range[i]; });
}

// Of the members, those for which the predicate holds.
static u32 votes(Warp& w, const Mask& m, const Site& site, const s32* p, bool negated,
                 const u32* members) {
  require_members(w, m, site, members);
  return (negated ? ~bits_of(p) : bits_of(p)) & m.bits;
}

void vote(Warp& w, const Mask& m, const Site& site, Vote how, s32* d, const s32* p, bool negated,
          const u32* members) {
  const u32 yes = votes(w, m, site, p, negated, members);
  each(m, d, [&](int i) {
    const u32 of = members[i] & m.bits, mine = yes & of;
    if (how == Vote::all) return -s32(mine == of);
    if (how == Vote::any) return -s32(mine != 0);
    return -s32(mine == of || mine == 0);
  });
}

void ballot(Warp& w, const Mask& m, const Site& site, u32* d, const s32* p, bool negated,
            const u32* members) {
  const u32 yes = votes(w, m, site, p, negated, members);
  each(m, d, [&](int i) { return yes & members[i]; });
}

void active_mask(Warp&, const Mask& m, u32* d) {
  each(m, d, [&](int) { return m.bits; });
}

template <class T>
void redux(Warp& w, const Mask& m, const Site& site, Atomic how, T* d, const T* a, const u32* members) {
  require_members(w, m, site, members);
  T result[kLanes];
  each_active(m.bits, [&](int lane) {
    u32 of = members[lane] & m.bits;
    T value = a[__builtin_ctz(of)];
    for (of &= of - 1; of; of &= of - 1) {
      const T next = a[__builtin_ctz(of)];
      switch (how) {
        case Atomic::add: value = static_cast<T>(u32(value) + u32(next)); break;
        case Atomic::min: value = value < next ? value : next; break;
        case Atomic::max: value = value < next ? next : value; break;
        case Atomic::and_: value &= next; break;
        case Atomic::or_: value |= next; break;
        default: value ^= next; break;
      }
    }
    result[lane] = value;
  });
  each(m, d, [&](int i) { return result[i]; });
}

template void redux(Warp&, const Mask&, const Site&, Atomic, u32*, const u32*, const u32*);
template void redux(Warp&, const Mask&, const Site&, Atomic, s32*, const s32*, const u32*);

void sync_warp(Warp& w, const Mask& m, const Site& site, const u32* members) {
  require_members(w, m, site, members);
}

}  // namespace ptx

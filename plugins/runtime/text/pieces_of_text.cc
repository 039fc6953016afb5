#include "text/pieces_of_text.h"

#include <algorithm>

namespace moe::runtime {

namespace {

// Each find joined to the range in front of it, unless that is a find too.
std::vector<Range> merged_with_previous(const std::vector<Range>& ranges) {
  std::vector<Range> made;
  bool was_found = false;
  for (const Range& range : ranges) {
    if (range.found && !was_found && !made.empty()) {
      made.back().end = range.end;
    } else {
      made.push_back({range.begin, range.end, false});
    }
    was_found = range.found;
  }
  return made;
}

// Each find joined to the range behind it, unless that is a find too.
std::vector<Range> merged_with_next(const std::vector<Range>& ranges) {
  std::vector<Range> made;
  bool was_found = false;
  for (auto range = ranges.rbegin(); range != ranges.rend(); ++range) {
    if (range->found && !was_found && !made.empty()) {
      made.back().begin = range->begin;
    } else {
      made.push_back({range->begin, range->end, false});
    }
    was_found = range->found;
  }
  std::reverse(made.begin(), made.end());
  return made;
}

std::vector<Range> contiguous(const std::vector<Range>& ranges) {
  std::vector<Range> made;
  bool was_found = false;
  for (const Range& range : ranges) {
    if (range.found == was_found && !made.empty()) {
      made.back().end = range.end;
    } else {
      made.push_back({range.begin, range.end, false});
    }
    was_found = range.found;
  }
  return made;
}

void put(const Piece& piece, const std::vector<Range>& ranges, bool removed, PiecesOfText* made) {
  for (const Range& range : ranges) {
    if ((removed && range.found) || range.begin == range.end) continue;
    made->push_back({piece.text.substr(range.begin, range.end - range.begin),
                     piece.at_start && range.begin == 0});
  }
}

}  // namespace

Behavior read_behavior(const Field& value) {
  const std::vector<std::string> names = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious",
                                          "MergedWithNext"};
  const std::string name = value.choice(names);
  return static_cast<Behavior>(std::find(names.begin(), names.end(), name) - names.begin());
}

void split(const Piece& piece, const std::vector<Range>& ranges, Behavior behavior,
           PiecesOfText* made) {
  switch (behavior) {
    case Behavior::isolated: return put(piece, ranges, false, made);
    case Behavior::removed: return put(piece, ranges, true, made);
    case Behavior::contiguous: return put(piece, contiguous(ranges), false, made);
    case Behavior::merged_with_previous:
      return put(piece, merged_with_previous(ranges), false, made);
    case Behavior::merged_with_next: return put(piece, merged_with_next(ranges), false, made);
  }
}

}  // namespace moe::runtime

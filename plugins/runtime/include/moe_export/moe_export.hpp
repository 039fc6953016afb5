// Bundles of moe-export in C++17: RAII and exceptions over moe_export.h, all of it in headers, so that
// a program and the library need not be of one compiler.
//
//   moe::Generator generator(moe::Bundle::open("qwen.moe"));
//   generator.generate("What is on the table?", {moe::Image::file("photo.jpg")}, {},
//                      [](std::string_view piece) { std::cout << piece << std::flush; });
//
// What goes wrong is thrown as moe::Error.  Objects may be moved and are freed when they go; sessions and
// generators may be used by several threads at once.
#ifndef MOE_EXPORT_MOE_EXPORT_HPP_
#define MOE_EXPORT_MOE_EXPORT_HPP_

#include "moe_export/bundle.hpp"
#include "moe_export/error.hpp"
#include "moe_export/generator.hpp"
#include "moe_export/session.hpp"

#endif  // MOE_EXPORT_MOE_EXPORT_HPP_

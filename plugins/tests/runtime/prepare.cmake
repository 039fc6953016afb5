# Text, images and prompts by themselves.
set(prepare_parts moe_runtime_core moe_runtime_text moe_runtime_image moe_runtime_ask)
set(prepare_objects)
foreach(part ${prepare_parts})
  list(APPEND prepare_objects $<TARGET_OBJECTS:${part}>)
endforeach()

# moe_runtime_probe: the parts behind one C function, which tests/embed holds beside their Python
# twins.
add_library(moe_runtime_probe MODULE EXCLUDE_FROM_ALL probe.cc ${prepare_objects})
target_link_libraries(moe_runtime_probe PRIVATE ${prepare_parts})

add_executable(prepare_tests main.cc text_test.cc image_test.cc ${prepare_objects})
target_include_directories(prepare_tests PRIVATE ${PROJECT_SOURCE_DIR}/plugins/kernels)
target_link_libraries(prepare_tests PRIVATE ${prepare_parts} Threads::Threads)
add_test(NAME prepare COMMAND prepare_tests)

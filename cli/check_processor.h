#pragma once

namespace deeptitan {

/// Ends the program with a clear message where the processor lacks the instructions that everything else is compiled
/// for. Compiled for any x86-64 itself.
void check_processor();

}  // namespace deeptitan

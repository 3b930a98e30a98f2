#pragma once

#include <string_view>

namespace deeptitan {

/// What holds for every command: descriptors 0 to 2 are taken, so that no file of the program ever becomes its standard
/// output; a closed pipe and a limit on file sizes are failed writes and not the program's end; a mapped file that is
/// cut short is an error that names it.
void prepare_process();

/// From here on this process is a rank behind the first, as report_error speaks.
void speak_as_rank(int rank);

/// Writes "deeptitan: MESSAGE" to stderr; where that cannot be written, there is nobody to tell. A rank behind the
/// first says which it is, and waits a moment before: what befell all ranks the first one says, and ends the others.
void report_error(std::string_view message);

/// Waits, where a launcher has started this rank, as long as others may take to report for whom they have waited: the
/// one that this rank names may itself wait for another.
void let_other_ranks_speak();

}  // namespace deeptitan

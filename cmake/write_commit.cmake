# Writes OUTPUT, a header with the commit that is built; run at every build, it touches the file only when that changes.
# A tree without git (a source archive) has no commit.
execute_process(COMMAND git -C "${SOURCE_DIR}" describe --always --dirty --abbrev=10 --exclude=*
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit)
  set(commit "unknown commit")
endif()
file(CONFIGURE OUTPUT "${OUTPUT}" CONTENT "#define DT_COMMIT \"${commit}\"\n")

# Sourced by make: where the tools are that bootstrap.sh installed.
[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
if [ -d target/tools/bin ]; then
    PATH="$PWD/target/tools/bin:$PATH"
    for clang in "$PWD"/target/tools/lib/python3*/site-packages/clang/native; do
        [ -d "$clang" ] || continue
        export LIBCLANG_PATH="$clang"
        BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include)"
        export BINDGEN_EXTRA_CLANG_ARGS
    done
    export PATH
fi
if command -v ccache >/dev/null 2>&1; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi

//! Micro-benchmarks of the pure parts: `cargo bench --bench pure`. `benches/README.md` has the results.

mod ignore;
mod parse;
mod plan;

fn main() {
    divan::main();
}

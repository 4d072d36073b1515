//! The conformance fixture as a program: `fixture [--listen ADDRESS] [--version NAME]`.

use std::net::SocketAddr;

use clap::Parser;

/// Serves the conformance fixture and prints its URL.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The version that the server says it is.
    #[arg(long, default_value = "v1")]
    version: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    serin_testbed::fixture::serve(args.listen, &args.version).await
}

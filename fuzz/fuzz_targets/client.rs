//! Arbitrary bytes at the client's decoders: see `properties/client.rs`.
#![no_main]

#[path = "../properties/client.rs"]
mod client;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    client::decode(input);
});

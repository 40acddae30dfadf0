#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vpn_node_fuzz::updater::journal(data);
});

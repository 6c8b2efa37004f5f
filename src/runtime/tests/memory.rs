//! Memory of the process: alone in this binary, so that no other test adds to it.

mod common;

use common::*;

#[test]
fn a_slow_reader_takes_no_memory() {
    let rig = Rig::new(on_one_cpu(1));
    std::fs::write(rig.dir.path().join("data"), pattern(8 << 20, 6)).unwrap();
    let mut clients: Vec<Client> = (0..8).map(|_| rig.client()).collect();
    let before = rig.metric("process_resident_memory_bytes");
    let mut args = Vec::new();
    for i in 0..40u64 {
        args.extend_from_slice(&(i * 200_000).to_be_bytes());
        args.extend_from_slice(&200_000u32.to_be_bytes());
    }
    for client in &mut clients {
        for _ in 0..8 {
            client.send(b'F', &args); // 64 MB each, below the threshold
        }
    }
    let mut other = rig.client();
    for _ in 0..1000 {
        assert_eq!(other.ask(b'E', b"x"), b"x");
    }
    let grown = rig.metric("process_resident_memory_bytes") - before;
    assert!(grown < 24e6, "{grown} bytes for 512 MB of answers");
    rig.stop();
}

"""Records of Zeek, Suricata and NetFlow/IPFIX as flows of the conn schema."""

"""The 41 features of KDD Cup 1999, which NSL-KDD shares, in the order of ``kddcup.names``.

`su_attempted` counts up to 2 and is therefore a number. NSL-KDD's last column, the number of 21 learners that
classified the row correctly, was computed from the labels: it is an identity and never reaches a model.
"""

from __future__ import annotations

from deepidea.flows.column import Column

KDD99_COLUMNS: tuple[Column, ...] = (
    Column("duration", "number", "s", (), "length of the connection"),
    Column("protocol_type", "category", "", (), "tcp, udp or icmp"),
    Column("service", "category", "", (), "service at the destination"),
    Column("flag", "category", "", (), "how the connection ended: SF, S0, REJ, ..."),
    Column("src_bytes", "number", "B", (), "bytes from source to destination"),
    Column("dst_bytes", "number", "B", (), "bytes from destination to source"),
    Column("land", "flag", "", (), "source and destination are the same"),
    Column("wrong_fragment", "number", "", (), "wrong fragments"),
    Column("urgent", "number", "", (), "urgent packets"),
    Column("hot", "number", "", (), "hot indicators in the content"),
    Column("num_failed_logins", "number", "", (), "failed logins"),
    Column("logged_in", "flag", "", (), "a login succeeded"),
    Column("num_compromised", "number", "", ("lnum_compromised",), "compromised conditions"),
    Column("root_shell", "flag", "", ("lroot_shell",), "a root shell was obtained"),
    Column("su_attempted", "number", "", ("lsu_attempted",), "su root was attempted"),
    Column("num_root", "number", "", ("lnum_root",), "accesses as root"),
    Column("num_file_creations", "number", "", ("lnum_file_creations",), "files created"),
    Column("num_shells", "number", "", ("lnum_shells",), "shell prompts"),
    Column("num_access_files", "number", "", ("lnum_access_files",), "operations on access control files"),
    Column("num_outbound_cmds", "number", "", ("lnum_outbound_cmds",), "outbound commands of an ftp session"),
    Column("is_host_login", "flag", "", ("is_hot_login",), "login on the hot list"),
    Column("is_guest_login", "flag", "", (), "login as guest"),
    Column("count", "number", "", (), "connections to the same host in 2 s"),
    Column("srv_count", "number", "", (), "connections to the same service in 2 s"),
    Column("serror_rate", "number", "", (), "share of `count` with SYN errors"),
    Column("srv_serror_rate", "number", "", (), "share of `srv_count` with SYN errors"),
    Column("rerror_rate", "number", "", (), "share of `count` with REJ errors"),
    Column("srv_rerror_rate", "number", "", (), "share of `srv_count` with REJ errors"),
    Column("same_srv_rate", "number", "", (), "share of `count` to the same service"),
    Column("diff_srv_rate", "number", "", (), "share of `count` to other services"),
    Column("srv_diff_host_rate", "number", "", (), "share of `srv_count` to other hosts"),
    Column("dst_host_count", "number", "", (), "connections to this host among the last 100"),
    Column("dst_host_srv_count", "number", "", (), "connections to this host and service among the last 100"),
    Column("dst_host_same_srv_rate", "number", "", (), "share of `dst_host_count` to the same service"),
    Column("dst_host_diff_srv_rate", "number", "", (), "share of `dst_host_count` to other services"),
    Column("dst_host_same_src_port_rate", "number", "", (), "share of `dst_host_count` from the same source port"),
    Column("dst_host_srv_diff_host_rate", "number", "", (), "share of `dst_host_srv_count` from other hosts"),
    Column("dst_host_serror_rate", "number", "", (), "share of `dst_host_count` with SYN errors"),
    Column("dst_host_srv_serror_rate", "number", "", (), "share of `dst_host_srv_count` with SYN errors"),
    Column("dst_host_rerror_rate", "number", "", (), "share of `dst_host_count` with REJ errors"),
    Column("dst_host_srv_rerror_rate", "number", "", (), "share of `dst_host_srv_count` with REJ errors"),
    Column("difficulty", "identity", "", ("difficulty_level",), "NSL-KDD: learners of 21 that got the row right"),
)

"""Workers: processes on many hosts that share the lanes, the journals and the work of runs, by one database."""

"""What several tests share: fakes with behaviour, virtual time, builders."""

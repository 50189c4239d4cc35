-- When the postmaster started, which identifies one run of one server.
SELECT extract(epoch FROM pg_postmaster_start_time())::text

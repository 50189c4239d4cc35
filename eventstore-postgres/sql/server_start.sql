-- Which run of which server this is.
SELECT extract(epoch FROM pg_postmaster_start_time())::text

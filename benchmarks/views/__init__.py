"""`make bench-views`: what it costs to see few views of each sample again and again, as with a cached teacher."""

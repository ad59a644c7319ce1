"""What files of llama.cpp mean, and what is known of the programs that wrote them. Knows no format."""

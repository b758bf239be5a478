"""What a fault costs: numbered items through one queue from one producer to two consumers, and somebody is
killed, frozen, or does not read. The same story over every transport."""

package batchtest

import "time"

// Pass lets some of the time of a synctest bubble pass, which costs none of
// anybody else's. Outside a bubble it would be a sleep, which no test may use.
func Pass(d time.Duration) { <-time.After(d) }

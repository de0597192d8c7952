package component

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// Seconds is a length of time that a file gives as a number of seconds, which may
// have a fraction, or as a text like "1m30s".
type Seconds float64

// Duration returns the same length of time.
func (s Seconds) Duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// UnmarshalYAML refuses what is no length of time, or is one of more than 68 years.
func (s *Seconds) UnmarshalYAML(node ast.Node) error {
	key := strings.TrimPrefix(node.GetPath(), "$.")
	var n float64
	if yaml.NodeToValue(node, &n) != nil {
		var text string
		if err := yaml.NodeToValue(node, &text); err != nil {
			return fmt.Errorf("%s: want a number of seconds, or a text like \"1m30s\"", key)
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%s: want a number of seconds, or a text like \"1m30s\", have %q", key, text)
		}
		n = d.Seconds()
	}
	if !(n >= 0 && n <= math.MaxInt32) { // nor NaN
		return fmt.Errorf("%s: %g seconds are no length of time within 0 and %d", key, n, math.MaxInt32)
	}
	*s = Seconds(n)
	return nil
}

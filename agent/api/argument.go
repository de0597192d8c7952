package api

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Argument is one of a program's: any bytes but NUL. In JSON it is a string, and one
// that is no UTF-8 an object with base64, so that an agent that cannot read it
// refuses it instead of running the program with other bytes.
type Argument string

type argumentBytes struct {
	Bytes []byte `json:"bytes"`
}

// MarshalJSON implements json.Marshaler.
func (a Argument) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(a)) {
		return json.Marshal(string(a))
	}
	return json.Marshal(argumentBytes{[]byte(a)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (a *Argument) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err == nil {
		*a = Argument(text)
		return nil
	}
	var raw argumentBytes
	if err := json.Unmarshal(data, &raw); err != nil {
		return fmt.Errorf("cannot read an argument: %w", err)
	}
	*a = Argument(raw.Bytes)
	return nil
}

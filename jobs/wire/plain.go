package wire

import (
	"slices"
	"strings"
)

// plainRegistration reads a registration that needs no care: an object of known
// keys, each once, with strings of plain ASCII without escapes, and small numbers.
// It reports whether it was one; all others are for encoding/json, which takes five
// times as long: a router hears a hundred thousand at once. A fuzz target holds the
// two against each other.
func plainRegistration(data []byte, r *Registration) bool {
	p := plain{text: string(data)}
	var room [16]string
	seen := room[:0]
	plain := p.object(func(key string) bool {
		if slices.Contains(seen, key) {
			return false
		}
		seen = append(seen, key)
		switch key {
		case "dea":
			return p.string(&r.DEA)
		case "app":
			return p.id(&r.App)
		case "app_name":
			return p.string(&r.AppName)
		case "host":
			return p.string(&r.Host)
		case "port":
			return p.number(&r.Port)
		case "uris":
			return p.strings(&r.URIs)
		case "tags":
			return p.tags(&r.Tags)
		case "private_instance_id":
			return p.string(&r.PrivateInstanceID)
		case "private_instance_index":
			return p.id(&r.PrivateInstanceIndex)
		case "front_key":
			return p.string(&r.FrontKey)
		case "stale_threshold_in_seconds":
			return p.number(&r.StaleThresholdInSeconds)
		}
		return false
	})
	p.space()
	return plain && p.text == ""
}

// plain is the rest of a JSON text. Its methods report whether they could read.
type plain struct{ text string }

func (p *plain) space() { p.text = strings.TrimLeft(p.text, " \t\r\n") }

// next takes a byte, after space.
func (p *plain) next(c byte) bool {
	p.space()
	if p.text == "" || p.text[0] != c {
		return false
	}
	p.text = p.text[1:]
	return true
}

// list reads elements, with commas between them, until the end.
func (p *plain) list(begin, end byte, element func() bool) bool {
	if !p.next(begin) {
		return false
	}
	if p.next(end) {
		return true
	}
	for element() {
		if p.next(end) {
			return true
		}
		if !p.next(',') {
			return false
		}
	}
	return false
}

func (p *plain) object(value func(key string) bool) bool {
	return p.list('{', '}', func() bool {
		var key string
		return p.string(&key) && p.next(':') && value(key)
	})
}

func (p *plain) string(to *string) bool {
	if !p.next('"') {
		return false
	}
	for i := range len(p.text) {
		switch c := p.text[i]; {
		case c == '"':
			*to, p.text = p.text[:i], p.text[i+1:]
			return true
		case c < ' ' || c == '\\' || c >= 0x7f:
			return false
		}
	}
	return false
}

// id reads a string or a whole number: an agent sends the index of its instance as one.
func (p *plain) id(to *ID) bool {
	p.space()
	if p.text != "" && p.text[0] == '"' {
		return p.string((*string)(to))
	}
	before, n := p.text, 0
	ok := p.number(&n)
	*to = ID(before[:len(before)-len(p.text)])
	return ok
}

// number reads a whole number below a billion.
func (p *plain) number(to *int) bool {
	p.space()
	digits, n := 0, 0
	for digits < len(p.text) && '0' <= p.text[digits] && p.text[digits] <= '9' {
		n = n*10 + int(p.text[digits]-'0')
		if digits++; digits > 9 {
			return false
		}
	}
	if digits == 0 || digits > 1 && p.text[0] == '0' {
		return false
	}
	*to, p.text = n, p.text[digits:]
	return true // a fraction or an exponent is no comma and no end
}

func (p *plain) strings(to *[]string) bool {
	*to = []string{}
	return p.list('[', ']', func() bool {
		var s string
		ok := p.string(&s)
		*to = append(*to, s)
		return ok
	})
}

func (p *plain) tags(to *Tags) bool {
	return p.object(func(key string) bool {
		if *to == nil {
			*to = Tags{}
		}
		if _, twice := (*to)[key]; twice {
			return false
		}
		var value string
		ok := p.string(&value)
		(*to)[key] = value
		return ok
	})
}

package views

import (
	"fmt"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Whatever is shown may come from a manifest, a release, an agent or an app. A
// control character in it could move the cursor, hide text or rewrite what is on
// the screen; so could Unicode's marks of direction. They are shown as Go writes
// them in a string: \x1b, \r, \u202e.

// maxLine is the number of characters of a line that are shown.
const maxLine = 2000

// safe returns text with all that is not shown as itself escaped. Newlines and
// tabs stay, lines that are too long are cut.
func safe(text string) string {
	if plain(text) {
		return text
	}
	var b strings.Builder
	for i, line := range strings.Split(text, "\n") {
		if i > 0 {
			b.WriteByte('\n')
		}
		shown := 0
		for len(line) > 0 {
			r, size := utf8.DecodeRuneInString(line)
			if shown == maxLine {
				fmt.Fprintf(&b, "… (%d more bytes)", len(line))
				break
			}
			shown++
			switch {
			case r == utf8.RuneError && size == 1:
				fmt.Fprintf(&b, `\x%02x`, line[0])
			case r == '\t' || !hidden(r):
				b.WriteRune(r)
			default:
				quoted := fmt.Sprintf("%+q", string(r))
				b.WriteString(quoted[1 : len(quoted)-1])
			}
			line = line[size:]
		}
	}
	return b.String()
}

// plain reports whether safe would return the text as it is.
func plain(text string) bool {
	line := 0
	for i, r := range text {
		if r == '\n' {
			line = 0
			continue
		}
		if line++; line > maxLine || r != '\t' && hidden(r) {
			return false
		}
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(text[i:]); size == 1 {
				return false
			}
		}
	}
	return true
}

// hidden reports whether a terminal does something else with a character than to
// show it: controls, marks of direction, other invisible ones, line separators.
func hidden(r rune) bool {
	return r != ' ' && !unicode.IsPrint(r)
}

// oneLine is safe with newlines escaped as well: a value must not look like a
// line of its own.
func oneLine(text string) string {
	return safe(strings.ReplaceAll(text, "\n", `\n`))
}

// severalLines are the fields whose text has lines.
var severalLines = map[string]bool{"Diff": true, "Message": true, "Error": true, "Fix": true}

// cleaned returns a copy of a value in which every string is safe, and one line
// but for the fields that have several.
func cleaned[T any](v T) T {
	out := reflect.New(reflect.TypeOf(&v).Elem()).Elem()
	clean(reflect.ValueOf(&v).Elem(), out)
	return out.Interface().(T)
}

func clean(from, to reflect.Value) {
	switch from.Kind() {
	case reflect.String:
		to.SetString(oneLine(from.String()))
	case reflect.Pointer:
		if !from.IsNil() {
			to.Set(reflect.New(from.Type().Elem()))
			clean(from.Elem(), to.Elem())
		}
	case reflect.Slice:
		if from.IsNil() {
			return
		}
		to.Set(reflect.MakeSlice(from.Type(), from.Len(), from.Len()))
		for i := range from.Len() {
			clean(from.Index(i), to.Index(i))
		}
	case reflect.Map:
		if from.IsNil() {
			return
		}
		to.Set(reflect.MakeMapWithSize(from.Type(), from.Len()))
		for entry := from.MapRange(); entry.Next(); {
			key, value := reflect.New(from.Type().Key()).Elem(), reflect.New(from.Type().Elem()).Elem()
			clean(entry.Key(), key)
			clean(entry.Value(), value)
			to.SetMapIndex(key, value)
		}
	case reflect.Struct:
		to.Set(from) // with what is not exported: times
		for i := range from.NumField() {
			field := from.Type().Field(i)
			switch {
			case !field.IsExported():
			case field.Type.Kind() == reflect.String && severalLines[field.Name]:
				to.Field(i).SetString(safe(from.Field(i).String()))
			default:
				clean(from.Field(i), to.Field(i))
			}
		}
	default:
		to.Set(from)
	}
}

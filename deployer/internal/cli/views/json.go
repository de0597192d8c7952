package views

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
)

// JSON prints a value for machines. A list that is empty is [], never null.
func JSON(w io.Writer, v any) error { return printJSON(w, v, "  ") }

// JSONLine prints a value for machines that read line by line, as events are.
func JSONLine(w io.Writer, v any) error { return printJSON(w, v, "") }

// ResultJSON prints how a run ended, after its events, with the last lines of the
// processes that failed.
func ResultJSON(w io.Writer, r *deployer.Result, err error) error {
	return JSONLine(w, struct {
		*deployer.Result
		Failures []*api.ProcessFailure `json:"failures,omitempty"`
	}{r, failures(err)})
}

// ErrorJSON prints an error that left nothing else to print.
func ErrorJSON(w io.Writer, err error) error {
	return JSONLine(w, struct {
		Error    string                `json:"error"`
		Failures []*api.ProcessFailure `json:"failures,omitempty"`
	}{err.Error(), failures(err)})
}

func printJSON(w io.Writer, v any, indent string) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", indent)
	if v != nil {
		v = filled(reflect.ValueOf(v)).Interface()
	}
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}

var marshaler = reflect.TypeFor[json.Marshaler]()

// filled returns a copy of a value in which no list is nil.
func filled(v reflect.Value) reflect.Value {
	if v.Type().Implements(marshaler) || reflect.PointerTo(v.Type()).Implements(marshaler) {
		return v
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			out := reflect.New(v.Type().Elem())
			out.Elem().Set(filled(v.Elem()))
			return out
		}
	case reflect.Interface:
		if !v.IsNil() {
			out := reflect.New(v.Type()).Elem()
			out.Set(filled(v.Elem()))
			return out
		}
	case reflect.Struct:
		out := reflect.New(v.Type()).Elem()
		out.Set(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(filled(v.Field(i)))
			}
		}
		return out
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 { // a text in base64
			return v
		}
		out := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(filled(v.Index(i)))
		}
		return out
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out := reflect.MakeMapWithSize(v.Type(), v.Len())
		for _, key := range v.MapKeys() {
			out.SetMapIndex(key, filled(v.MapIndex(key)))
		}
		return out
	}
	return v
}

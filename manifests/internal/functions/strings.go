package functions

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

func stringParam(name string) function.Parameter {
	return function.Parameter{Name: name, Type: cty.String}
}

func notNull(b *cty.RefinementBuilder) *cty.RefinementBuilder { return b.NotNull() }

// mapString is a function from one string to another.
func mapString(name string, f func(string) (string, error)) function.Function {
	return function.New(&function.Spec{
		Params:       []function.Parameter{stringParam(name)},
		Type:         function.StaticReturnType(cty.String),
		RefineResult: notNull,
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			s, err := f(args[0].AsString())
			if err != nil {
				return cty.UnknownVal(cty.String), function.NewArgError(0, err)
			}
			return cty.StringVal(s), nil
		},
	})
}

// testStrings is a question about two strings.
func testStrings(second string, f func(s, part string) bool) function.Function {
	return function.New(&function.Spec{
		Params:       []function.Parameter{stringParam("str"), stringParam(second)},
		Type:         function.StaticReturnType(cty.Bool),
		RefineResult: notNull,
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.BoolVal(f(args[0].AsString(), args[1].AsString())), nil
		},
	})
}

var (
	startsWith     = testStrings("prefix", strings.HasPrefix)
	endsWith       = testStrings("suffix", strings.HasSuffix)
	stringContains = testStrings("substr", strings.Contains)

	basename = mapString("path", func(s string) (string, error) { return path.Base(s), nil })
	dirname  = mapString("path", func(s string) (string, error) { return path.Dir(s), nil })

	urlEncode    = mapString("str", func(s string) (string, error) { return url.QueryEscape(s), nil })
	base64Encode = mapString("str", func(s string) (string, error) {
		return base64.StdEncoding.EncodeToString([]byte(s)), nil
	})
	base64Decode = mapString("str", func(s string) (string, error) {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return "", errors.New("not valid base64")
		}
		if !utf8.Valid(b) {
			return "", errors.New("the decoded bytes are not UTF-8 text, which is all that a string can hold")
		}
		return string(b), nil
	})

	hexMD5    = digest(func(b []byte) []byte { d := md5.Sum(b); return d[:] }, hex.EncodeToString)
	hexSHA1   = digest(func(b []byte) []byte { d := sha1.Sum(b); return d[:] }, hex.EncodeToString)
	hexSHA256 = digest(sum256, hex.EncodeToString)
	hexSHA512 = digest(sum512, hex.EncodeToString)

	base64SHA256 = digest(sum256, base64.StdEncoding.EncodeToString)
	base64SHA512 = digest(sum512, base64.StdEncoding.EncodeToString)
)

func sum256(b []byte) []byte { d := sha256.Sum256(b); return d[:] }
func sum512(b []byte) []byte { d := sha512.Sum512(b); return d[:] }

func digest(sum func([]byte) []byte, encode func([]byte) string) function.Function {
	return mapString("str", func(s string) (string, error) { return encode(sum([]byte(s))), nil })
}

// replace takes its second argument as a regular expression when it stands
// between slashes, as Terraform's does.
var replace = function.New(&function.Spec{
	Params:       []function.Parameter{stringParam("str"), stringParam("substr"), stringParam("replace")},
	Type:         function.StaticReturnType(cty.String),
	RefineResult: notNull,
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		str, old, with := args[0].AsString(), args[1].AsString(), args[2].AsString()
		if len(old) > 1 && strings.HasPrefix(old, "/") && strings.HasSuffix(old, "/") {
			re, err := regexp.Compile(old[1 : len(old)-1])
			if err != nil {
				return cty.UnknownVal(cty.String), function.NewArgError(1, fmt.Errorf("not a regular expression: %w", err))
			}
			return cty.StringVal(re.ReplaceAllString(str, with)), nil
		}
		return cty.StringVal(strings.ReplaceAll(str, old, with)), nil
	},
})
